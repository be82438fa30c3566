// The second sweep of the forward pass: sums over a frame's tokens, weighted for the context, plain for the pooled cells.
#pragma once

#include "compress_frames/cuda_pass.cuh"

namespace longreel {

// Prompts whose context is summed in one sweep, and tokens whose loads are under way together: a lane fetches one weight.
constexpr int kPrompts = 4, kBatch = 8;
static_assert(kPrompts * kBatch == kLanes);
// Batches summed on their own before they join a total: bounds the rounding error of long sums.
constexpr int kChain = 8;

// Sums of one warp over the tokens that it visits, 16 bytes of channels a lane: plain, and weighted for a few prompts.
template <class T>
struct TokenSums {
  static constexpr int V = Tile<T>::lane;

  const Frame<T>& frame;
  const Patches& patches;
  int64_t c;  // first channel of this lane
  bool packs;
  int prompts;           // that are summed
  const float* weights;  // of the frame's tokens, for prompt lane / kBatch; null for no prompt
  float plain[V], weighted[kPrompts][V];

  __device__ TokenSums(const FramePass& pass, const Frame<T>& frame, int64_t c)
      : frame(frame), patches(pass.problem.patches), c(c), packs(pass.x_packs), prompts(0), weights(nullptr), plain(), weighted() {}

  // Adds tokens first, first + step, ... of the `count` in the window [.., width] at y0, x0 of a grid of that pitch.
  __device__ void add(int64_t first, int64_t step, int64_t count, int64_t width, int64_t y0, int64_t x0, int64_t pitch,
                      bool for_prompts) {
    if (count <= 0) return;
    const int lane = threadIdx.x % kLanes;
    int64_t y = first / width, x = first % width;
    const int64_t down = step / width, across = step % width;
    for (int64_t i = first; i < count;) {
      float sum[V] = {}, sums[kPrompts][V] = {};
      for (int batch = 0; batch < kChain && i < count; ++batch) {
        Pack<T, V> tokens[kBatch];
        int64_t own = -1;
#pragma unroll
        for (int b = 0; b < kBatch; ++b, i += step) {
          const int64_t n = (y0 + y) * pitch + x0 + x;
          if (i < count && lane % kBatch == b) own = n;
          tokens[b] = load(n, i < count);
          y += down;
          x += across;
          if (x >= width) x -= width, ++y;
        }
        const float weight = for_prompts && own >= 0 && weights != nullptr ? __ldcg(weights + own) : 0.0f;
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          float values[V];
#pragma unroll
          for (int v = 0; v < V; ++v) sum[v] += values[v] = widen(tokens[b].lane[v]);
#pragma unroll
          for (int j = 0; j < kPrompts; ++j) {
            if (!for_prompts || j >= prompts) break;
            const float factor = __shfl_sync(~0u, weight, j * kBatch + b);
#pragma unroll
            for (int v = 0; v < V; ++v) sums[j][v] = fmaf(factor, values[v], sums[j][v]);
          }
        }
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
        plain[v] += sum[v];
#pragma unroll
        for (int j = 0; j < kPrompts; ++j) weighted[j][v] += sums[j][v];
      }
    }
  }

  // This lane's channels of token n; zeros where there are none.
  __device__ Pack<T, V> load(int64_t n, bool inside) const {
    Pack<T, V> token;
    const T* const from = frame.x + n * patches.row_stride + c * patches.channel_stride;
    if (packs && inside && c < patches.channels) return load_pack_l2<V>(from);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      token.lane[v] = !packs && inside && c + v < patches.channels ? from[v * patches.channel_stride] : narrow<T>(0.0f);
    }
    return token;
  }
};

// The sum over the block's warps of their values, in order; complete in the first warp.
template <int V>
__device__ inline void sum_warps(float (&values)[V]) {
  auto* const shared = reinterpret_cast<float*>(dynamic_shared());
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  __syncthreads();
#pragma unroll
  for (int v = 0; v < V; ++v) shared[(warp * V + v) * kLanes + lane] = values[v];
  __syncthreads();
  if (warp != 0) return;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    values[v] = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) values[v] += shared[(w * V + v) * kLanes + lane];
  }
}

// content [cells, C] and context [P, C] of a frame, for one slice of channels. Where no token belongs to two cells, one sweep
// gives the cells and the first prompts' context.
template <class T>
__device__ void sum_slice(const FramePass& pass, const Frame<T>& frame, const FrameOutputs& outputs, int64_t slice) {
  constexpr int V = Tile<T>::lane;
  const FrameProblem& problem = pass.problem;
  const PoolGeometry& pool = problem.pool;
  const int64_t channels = problem.patches.channels, prompts = problem.queries.prompts, cells = pool.cells();
  const int64_t warp = threadIdx.x / kLanes, c = slice * Tile<T>::slice + threadIdx.x % kLanes * V;
  TokenSums<T> sums(pass, frame, c);
  const auto choose_prompts = [&](int64_t first) {
    const int64_t own = first + threadIdx.x % kLanes / kBatch;
    sums.prompts = static_cast<int>(min(prompts - first, int64_t{kPrompts}));
    sums.weights = own < prompts ? outputs.weights + problem.weights_at(own, frame.index) : nullptr;
#pragma unroll
    for (int j = 0; j < kPrompts; ++j) {
#pragma unroll
      for (int v = 0; v < V; ++v) sums.weighted[j][v] = 0.0f;
    }
  };
  choose_prompts(0);

  const bool together = cells > 0 && pool.height * pool.width > 0 && pool.disjoint();
  // A warp takes a cell, or the whole block takes it where there are fewer cells than warps.
  const bool shared_cells = cells < kWarps;
  T* const content = static_cast<T*>(outputs.content) + frame.index * cells * channels;
  for (int64_t cell = shared_cells ? 0 : warp; cell < cells; cell += shared_cells ? 1 : kWarps) {
    const Interval ys = pool.rows_of(cell), xs = pool.columns_of(cell);
    const int64_t area = ys.size() * xs.size();
#pragma unroll
    for (int v = 0; v < V; ++v) sums.plain[v] = 0.0f;
    sums.add(shared_cells ? warp : 0, shared_cells ? kWarps : 1, area, xs.size(), ys.begin, xs.begin, pool.pitch, together);
    if (shared_cells) sum_warps(sums.plain);
    if (shared_cells && warp != 0) continue;
#pragma unroll
    for (int v = 0; v < V; ++v) sums.plain[v] = area == 0 ? 0.0f : sums.plain[v] / static_cast<float>(area);
    store_channels(content + cell * channels, sums.plain, c, channels);
  }

  if (together && pool.height * pool.width < frame.tokens) {
    // What no cell covers: columns right of the window, then rows below it.
    const int64_t right = pool.pitch - pool.width, below = frame.tokens - pool.height * pool.pitch;
    const int64_t last = min(right, frame.tokens - (pool.height - 1) * pool.pitch - pool.width);
    sums.add(warp, kWarps, (pool.height - 1) * right, right, 0, pool.width, pool.pitch, true);
    sums.add(warp, kWarps, last, right, pool.height - 1, pool.width, pool.pitch, true);
    sums.add(warp, kWarps, below, 1, pool.height * pool.pitch, 0, 1, true);
  }
  for (int64_t first = 0; first < prompts; first += kPrompts) {
    if (first > 0) choose_prompts(first);
    if (first > 0 || !together) sums.add(warp, kWarps, frame.tokens, 1, 0, 0, 1, true);
#pragma unroll
    for (int j = 0; j < kPrompts; ++j) {
      if (first + j >= prompts) break;
      sum_warps(sums.weighted[j]);
      if (warp != 0) continue;
      T* const context = static_cast<T*>(outputs.context) + ((first + j) * problem.patches.frames + frame.index) * channels;
      store_channels(context, sums.weighted[j], c, channels);
    }
  }
}

}  // namespace longreel
