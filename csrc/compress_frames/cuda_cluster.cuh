// What a pass over frames by clusters knows: tiles in shared memory, the call, and the way of a cluster through its tiles.
//
// Each block of a cluster has a share of the channels of every token; the products of a tile are summed over the blocks' shared
// memory. So the patches go once from memory to the multiprocessors, and nothing of a frame waits for its end but its sums.
#pragma once

#include "common/cuda_cluster.cuh"
#include "common/cuda_pack.cuh"
#include "compress_frames/compress_frames.h"
#include "compress_frames/cuda.h"
#include "compress_frames/cuda_scheduler.cuh"

namespace longreel {

constexpr int kShare = kClusterChannels / kClusterBlocks;  // most channels of a block
constexpr int kRowPitch = kShare + 8;                      // of a row in shared memory: eight rows lie in different banks
constexpr int kLane = 8;                                   // channels of 16 bytes

// Query rows of a pass, the tokens beside them, and the tiles of patches at hand: one is being finished, one scored, the others
// are on their way.
template <int Rows>
struct ClusterTile {
  static constexpr int tokens = 2048 / Rows;
  static constexpr int stages = Rows == 32 ? 3 : 5;
  static constexpr int score_pitch = tokens + 4;                 // floats; what a warp writes lies in different banks
  static constexpr int weight_pitch = tokens + 8;                // of 16-bit weights
  static constexpr int row_groups = Rows / 16;                   // warps that share channels
  static constexpr int channels = kShare * row_groups / kWarps;  // that a warp sums
  static constexpr int row_threads = kThreads / Rows;            // threads of a row of scores, 8 tokens each
};

// The dynamic shared memory of a block.
template <class T, int Rows>
struct ClusterMemory {
  using Tile = ClusterTile<Rows>;
  alignas(128) T x[Tile::stages][Tile::tokens][kRowPitch];
  alignas(128) T queries[Rows][kRowPitch];
  // Three in turn: one is written while another block may still read the one before the last.
  alignas(128) float scores[3][Rows][Tile::score_pitch];
  alignas(128) T weights[Rows][Tile::weight_pitch];
  alignas(128) float joined[Tile::row_groups][kShare];
  float alpha[Rows], m_i[Rows], factor[Rows];
  alignas(16) Arrival arrivals[Tile::stages];
};

struct ClusterCall {
  FrameProblem problem;  // patches.offsets is on the device
  FrameOutputs outputs;
  int64_t share;        // channels of a block, the last may have fewer
  int64_t together;     // prompts of a pass over a frame
  int64_t passes;       // over every frame
  float* scores;        // [tile][row][token] of the frames at hand, see ClusterWalk
  int64_t scores_each;  // of a cluster; 0 where packed frames keep all of theirs, `scores_all` for each pass
  int64_t scores_all;
  float* cells;  // [clusters][cells][C] sums of cells that the tiles so far have begun
};

// A place on the way of a cluster: a tile of an item, which is one pass over a frame. Clusters take items in turn.
template <class T, int Rows>
struct ClusterWalk {
  static constexpr int64_t kTokens = ClusterTile<Rows>::tokens;

  const ClusterCall& call;
  int64_t item, frame, pass, tokens, tiles, tile, step;
  const T* x;

  __device__ explicit ClusterWalk(const ClusterCall& call)
      : call(call), item(blockIdx.x / cluster_blocks()), frame(0), pass(0), tokens(0), tiles(0), tile(0), step(0), x(nullptr) {
    enter();
  }

  __device__ bool ended() const { return item >= call.problem.patches.frames * call.passes; }
  __device__ int stage() const { return static_cast<int>(step % ClusterTile<Rows>::stages); }
  __device__ unsigned parity() const { return static_cast<unsigned>(step / ClusterTile<Rows>::stages % 2); }
  __device__ bool last() const { return tile + 1 == tiles; }
  __device__ int64_t first_prompt() const { return pass * call.together; }
  __device__ int64_t prompts() const { return min(call.together, call.problem.queries.prompts - first_prompt()); }
  __device__ int64_t set() const { return call.problem.queries.sets == 1 ? 0 : frame; }

  __device__ void next() {
    ++step;
    if (++tile < tiles) return;
    item += gridDim.x / cluster_blocks();
    enter();
  }

  // Where the scores of the frame's tile number `tile` stand, [row][token].
  __device__ float* scores(int64_t tile) const {
    const Patches& patches = call.problem.patches;
    const int64_t first = call.scores_each > 0 ? blockIdx.x / cluster_blocks() * call.scores_each
                                               : pass * call.scores_all + patches.offsets[frame] + frame * kTokens;
    return call.scores + (first + tile * kTokens) * Rows;
  }

 private:
  __device__ void enter() {
    tile = 0;
    if (ended()) return;
    const Patches& patches = call.problem.patches;
    const int64_t prefix = call.problem.pool.prefix;
    frame = item / call.passes;
    pass = item % call.passes;
    tokens = patches.rows(frame) - prefix;
    tiles = max(ceil_div(tokens, kTokens), int64_t{1});
    x = static_cast<const T*>(patches.data) + patches.at(frame, prefix) + cluster_rank() * call.share;
  }
};

}  // namespace longreel
