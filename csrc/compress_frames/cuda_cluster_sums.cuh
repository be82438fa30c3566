// What a block makes of a tile of patches whose scores are known: sums for the context, pooled cells, and at a frame's end the
// results.
#pragma once

#include <cmath>

#include "compress_frames/cuda_cluster.cuh"
#include "compress_frames/cuda_softmax.cuh"

namespace longreel {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// The sums of the weighted patches, [16 rows, channels] a warp, as tensor cores leave them: rows lane / 4 and lane / 4 + 8.
template <class T, int Rows>
class ClusterSums {
 public:
  using Tile = ClusterTile<Rows>;
  using Memory = ClusterMemory<T, Rows>;

  // Adds a tile; what is there is scaled by `alpha` first.
  __device__ void add(const Memory& memory, int stage, int width) {
    const int lane = threadIdx.x % kLanes;
    const float low = memory.alpha[row()], high = memory.alpha[row() + 8];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      sum_[i][0] *= low, sum_[i][1] *= low;
      sum_[i][2] *= high, sum_[i][3] *= high;
    }
#pragma unroll
    for (int k = 0; k < Tile::tokens; k += 32) {
      uint32_t a[2][4];
      load_matrices(a[0], &memory.weights[group() * 16 + lane % 16][k + lane / 16 * 8]);
      load_matrices(a[1], &memory.weights[group() * 16 + lane % 16][k + 16 + lane / 16 * 8]);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (channel(i) >= width) break;
        uint32_t b[4];
        load_transposed(b, &memory.x[stage][k + lane][channel(i)]);
        multiply_add(sum_[i], a[0], b[0], b[1], T{});
        multiply_add(sum_[i], a[1], b[2], b[3], T{});
      }
    }
  }

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kTiles * 4; ++i) sum_[i / 4][i % 4] = 0.0f;
  }

  // Sums over `rows` rows from `first` on, each times its factor, for every channel of the block into memory.joined[group].
  __device__ void join(Memory& memory, int first, int rows) const {
    const float low = factor(memory, row(), first, rows), high = factor(memory, row() + 8, first, rows);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float sum = (low == 0.0f ? 0.0f : sum_[i][e] * low) + (high == 0.0f ? 0.0f : sum_[i][e + 2] * high);
#pragma unroll
        for (int step = 4; step < kLanes; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (threadIdx.x % kLanes < 4) memory.joined[group()][channel(i) + threadIdx.x % kLanes * 2 + e] = sum;
      }
    }
  }

 private:
  static constexpr int kTiles = Tile::channels / 8;

  __device__ static int group() { return threadIdx.x / kLanes % Tile::row_groups; }
  __device__ static int row() { return group() * 16 + threadIdx.x % kLanes / 4; }
  __device__ static int channel(int i) { return threadIdx.x / kLanes / Tile::row_groups * Tile::channels + i * 8; }
  __device__ static float factor(const Memory& memory, int row, int first, int rows) {
    return row >= first && row < first + rows ? memory.factor[row] : 0.0f;
  }

  float sum_[kTiles][4];
};

// Adds a tile to the pooled cells: a thread has the same cells and channels all along, and keeps between tiles what a later
// tile goes on with.
template <class T, int Rows>
__device__ void pool_tile(const ClusterWalk<T, Rows>& at, const ClusterMemory<T, Rows>& memory, int width) {
  const ClusterCall& call = at.call;
  const PoolWindow& pool = call.problem.pool;
  const int64_t channels = call.problem.patches.channels, cells = pool.cells(), area = pool.height * pool.width;
  if (cells == 0 || at.pass > 0) return;
  const int64_t begin = at.tile * ClusterTile<Rows>::tokens, end = min(begin + ClusterTile<Rows>::tokens, at.tokens);
  // Rows of cells that the tile touches; where nothing is pooled, all, at the first tile.
  int64_t first = 0, last = pool.out_height;
  if (area > 0) {
    const int64_t y = begin / pool.pitch, y_last = min((end - 1) / pool.pitch, pool.height - 1);
    if (y >= pool.height || end <= begin) return;
    first = PoolWindow::cells_of_token(y, pool.height, pool.out_height).begin;
    last = PoolWindow::cells_of_token(y_last, pool.height, pool.out_height).end;
  } else if (at.tile > 0) {
    return;
  }
  const int chunks = width / kLane;
  const int64_t own = cluster_rank() * call.share, from = first * pool.out_width * chunks, to = last * pool.out_width * chunks;
  T* const content = static_cast<T*>(call.outputs.content) + at.frame * cells * channels + own;
  float* const open = call.cells + blockIdx.x / cluster_blocks() * cells * channels + own;
  for (int64_t i = from + (threadIdx.x + kThreads - from % kThreads) % kThreads; i < to; i += kThreads) {
    const int64_t cell = i / chunks;
    const int c = static_cast<int>(i % chunks) * kLane;
    const Interval ys = pool.rows_of(cell), xs = pool.columns_of(cell);
    const auto count = static_cast<float>(ys.size() * xs.size());
    const int64_t cell_begin = ys.begin * pool.pitch + xs.begin, cell_end = (ys.end - 1) * pool.pitch + xs.end;
    if (count > 0.0f && (cell_begin >= end || cell_end <= begin)) continue;
    float sum[kLane] = {};
    if (count > 0.0f) {
      if (cell_begin < begin) {
#pragma unroll
        for (int v = 0; v < kLane; ++v) sum[v] = open[cell * channels + c + v];
      }
      for (int64_t y = max(ys.begin, begin / pool.pitch); y < ys.end && y * pool.pitch < end; ++y) {
        const int64_t n = y * pool.pitch;
        for (int64_t x = max(xs.begin, begin - n); x < min(xs.end, end - n); ++x) {
          const auto token = load_pack<kLane>(&memory.x[at.stage()][n + x - begin][c]);
#pragma unroll
          for (int v = 0; v < kLane; ++v) sum[v] += widen(token.lane[v]);
        }
      }
      if (cell_end > end) {
#pragma unroll
        for (int v = 0; v < kLane; ++v) open[cell * channels + c + v] = sum[v];
        continue;
      }
#pragma unroll
      for (int v = 0; v < kLane; ++v) sum[v] /= count;
    }
    store_pack<kLane>(content + cell * channels + c, sum);
  }
}

// The results of an item whose tiles are summed: its lse, then context and weights of every prompt. l_i is the sum of this
// thread's row; memory.m_i are in place.
template <class T, int Rows>
__device__ void end_item(const ClusterWalk<T, Rows>& at, ClusterMemory<T, Rows>& memory, const ClusterSums<T, Rows>& sums,
                         float l_i, int width) {
  using Tile = ClusterTile<Rows>;
  const ClusterCall& call = at.call;
  const FrameProblem& problem = call.problem;
  const Queries& queries = problem.queries;
  const int64_t channels = problem.patches.channels, frames = problem.patches.frames;
  const float scale = fabsf(problem.scale);
  const int row = threadIdx.x / Tile::row_threads, all = static_cast<int>(at.prompts() * queries.rows);
  if (threadIdx.x % Tile::row_threads == 0) {
    bool counts = row < all && at.tokens > 0;
    float share = 0.0f;
    if (row < all) {
      const int64_t p = at.first_prompt() + row / queries.rows, m = row % queries.rows;
      counts = counts && queries.valid(p, at.set(), m);
      share = 1.0f / static_cast<float>(max(valid_queries(queries, p, at.set()), int64_t{1}));
      if (cluster_rank() == 0) {
        call.outputs.lse[(p * frames + at.frame) * queries.rows + m] = counts ? memory.m_i[row] * scale + logf(l_i) : -INFINITY;
      }
    }
    memory.factor[row] = counts ? share / l_i : 0.0f;
  }
  __syncthreads();
  for (int64_t p = 0; p < at.prompts(); ++p) {
    const int first = static_cast<int>(p * queries.rows), rows = static_cast<int>(queries.rows);
    sums.join(memory, first, rows);
    __syncthreads();
    T* const context = static_cast<T*>(call.outputs.context) + ((at.first_prompt() + p) * frames + at.frame) * channels +
                       cluster_rank() * call.share;
    for (int c = threadIdx.x * kLane; c < width; c += kThreads * kLane) {
      float values[kLane] = {};
      for (int group = 0; group < Tile::row_groups; ++group) {
#pragma unroll
        for (int v = 0; v < kLane; ++v) values[v] += memory.joined[group][c + v];
      }
      store_pack<kLane>(context + c, values);
    }
    __syncthreads();
    // The weights of the tiles whose scores this block has kept; several threads a token, each with some of the rows.
    float* const weights = call.outputs.weights + problem.weights_at(at.first_prompt() + p, at.frame);
    float* const parts = &memory.joined[0][0];
    constexpr int kParts = kThreads / Tile::tokens;
    const int part = threadIdx.x / Tile::tokens, token = threadIdx.x % Tile::tokens;
    for (int64_t tile = cluster_rank(); tile < at.tiles; tile += cluster_blocks()) {
      const float* const scores = at.scores(tile);
      const bool inside = tile * Tile::tokens + token < at.tokens;
      float weight = 0.0f;
      for (int m = first + part; inside && m < first + rows; m += kParts) {
        if (memory.factor[m] != 0.0f) {
          weight += exp2f((scores[m * Tile::tokens + token] - memory.m_i[m]) * (scale * kLog2E)) * memory.factor[m];
        }
      }
      parts[threadIdx.x] = weight;
      __syncthreads();
      if (part == 0 && inside) {
        float total = 0.0f;
        for (int i = 0; i < kParts; ++i) total += parts[i * Tile::tokens + token];
        weights[tile * Tile::tokens + token] = total;
      }
      __syncthreads();
    }
  }
}

}  // namespace longreel
