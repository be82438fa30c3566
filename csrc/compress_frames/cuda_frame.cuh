// What both directions know of a call: the problem, the frames at hand and their scores, rows as the kernels read them.
#pragma once

#include "common/cuda_pack.cuh"
#include "common/cuda_ptx.cuh"
#include "compress_frames/compress_frames.h"
#include "compress_frames/cuda_scheduler.cuh"

namespace longreel {

// Score tiles: tokens x rows, over `channels` at a time. Tokens are the long side; all tiles of a stage take 16 KiB.
template <class T>
struct Tile {
  static constexpr int tokens = sizeof(T) == 4 ? 32 : 64, rows = tokens, channels = 64;
  static constexpr int lane = kPackBytes / sizeof(T);  // elements of a 16-byte chunk
  static constexpr int chunks = channels / lane;       // chunks of a row
  static constexpr int stage_bytes = (tokens + rows) * chunks * kPackBytes;
  static constexpr int copies = tokens * chunks / kThreads;  // chunks that a thread copies of either operand
  static constexpr int slice = kLanes * lane;                // channels that a warp reads at once, 16 bytes a lane
};

constexpr int kStages = 6;
constexpr int kSharedBytes = kStages * 16 * 1024;
static_assert(kSharedBytes + 2048 <= 99 * 1024, "with the kernels' own variables it fits a block of every card from sm_80 on");
static_assert(Tile<float>::stage_bytes * kStages == kSharedBytes && Tile<__half>::stage_bytes * kStages == kSharedBytes);
// Pitch of a row of scores, in floats: rows begin at 32-byte sectors, so that no sector belongs to two frames.
constexpr int64_t kPitch = 8;

struct FrameCall {
  FrameProblem problem;      // all frames; patches.offsets is on the device
  const void* grad_context;  // rows that are scored after the queries, [P, F, C], or null
  bool x_packs, q_packs;     // 16-byte chunks can be read of patches; of queries and grad_context
  int64_t first_frame;       // the frames at hand are first_frame .. first_frame + scheduler.frames - 1
  Scheduler scheduler;
  float* scores;                    // for every frame [score_rows, pitch]
  int64_t score_rows, scored_rows;  // rows of a frame's scores, and how many of them are products with the patches
  int64_t parts;                    // of every frame, where all frames are as long
  const int64_t* first_part;        // packed patches: [F + 1] parts before a frame
  const int32_t* part_frame;        // packed patches: the frame of every part
};

// One frame of the call. Tokens are those after the prefix.
template <class T>
struct Frame {
  int64_t index, local, tokens, pitch, parts;
  const T* x;
  float* scores;

  __device__ Frame(const FrameCall& call, int64_t local) : index(call.first_frame + local), local(local) {
    const Patches& patches = call.problem.patches;
    const int64_t prefix = call.problem.pool.prefix;
    tokens = patches.rows(index) - prefix;
    pitch = round_up(tokens, kPitch);
    x = static_cast<const T*>(patches.data) + patches.at(index, prefix);
    const bool packed = patches.offsets != nullptr;
    parts = packed ? call.first_part[index + 1] - call.first_part[index] : call.parts;
    scores = call.scores + call.score_rows * (packed ? packed_begin(patches.offsets[index], index) : local * pitch);
  }

  // Where the scores of packed frame f begin, in tokens, if its rows begin at `offset`.
  LONGREEL_INLINE static int64_t packed_begin(int64_t offset, int64_t f) { return round_up(offset, kPitch) + 2 * kPitch * f; }
};

// A row of channels; null where there is none, which counts as zeros.
template <class T>
struct Row {
  const T* data;
  int64_t step;
};

// Rows 0 .. P M - 1 are the queries of frame f, then come its P gradients of context.
template <class T>
__device__ inline Row<T> query_row(const FrameCall& call, int64_t f, int64_t r) {
  const Queries& q = call.problem.queries;
  const int64_t queries = q.prompts * q.rows;
  if (r < queries) {
    const auto p = static_cast<uint32_t>(r) / static_cast<uint32_t>(q.rows);
    const auto m = static_cast<uint32_t>(r) % static_cast<uint32_t>(q.rows);
    const int64_t set = q.sets == 1 ? 0 : f;
    if (!q.valid(p, set, m)) return {nullptr, 0};
    return {static_cast<const T*>(q.data) + q.at(p, set, m), q.channel_stride};
  }
  if (call.grad_context == nullptr || r >= queries + q.prompts) return {nullptr, 0};
  const Patches& x = call.problem.patches;
  return {static_cast<const T*>(call.grad_context) + ((r - queries) * x.frames + f) * x.channels, 1};
}

// Starts to bring 16 bytes of a row, from channel c on, into shared memory; zeros beyond the row's end.
template <class T>
__device__ inline void copy_chunk(const FrameCall& call, unsigned char* to, Row<T> row, int64_t c, bool packs) {
  constexpr int lane = Tile<T>::lane;
  const int64_t channels = call.problem.patches.channels;
  const bool inside = row.data != nullptr && c < channels;
  if (packs) {
    copy_async(to, inside ? static_cast<const void*>(row.data + c) : call.scores, inside);
    return;
  }
  Pack<T, lane> pack;
#pragma unroll
  for (int v = 0; v < lane; ++v) pack.lane[v] = inside && c + v < channels ? row.data[(c + v) * row.step] : narrow<T>(0.0f);
  *reinterpret_cast<Pack<T, lane>*>(to) = pack;
}

// Writes channels c .. c + V - 1 of a row, as far as there are channels; c is a multiple of V.
template <class T, int V>
__device__ inline void store_channels(T* row, const float (&values)[V], int64_t c, int64_t channels) {
  if (channels % V == 0 && reinterpret_cast<uintptr_t>(row) % sizeof(Pack<T, V>) == 0) {
    if (c < channels) store_pack<V>(row + c, values);
    return;
  }
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (c + v < channels) row[c + v] = narrow<T>(values[v]);
  }
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

}  // namespace longreel
