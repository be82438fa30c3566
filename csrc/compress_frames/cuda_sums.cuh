// The second sweep of the forward pass: sums over a frame's tokens, weighted for the context, plain for the pooled cells.
#pragma once

#include "compress_frames/cuda_frame.cuh"

namespace longreel {

// Prompts whose context is summed in one sweep, and tokens whose loads are under way together: a lane fetches one weight.
constexpr int kPrompts = 4, kBatch = 8;
static_assert(kPrompts * kBatch == kLanes);
// Batches of fp32 summed on their own before they join a total: bounds the rounding error of long sums.
constexpr int kChain = 8;

// Tokens of a part of the frame's grid: number i is row (y0 + i / width) * pitch + x0 + i % width of the frame.
struct TokenGrid {
  int count, width, y0, x0, pitch;
};

// Sums of one warp over the tokens that it visits, 16 bytes of channels a lane: plain, and weighted for a few prompts.
template <class T>
struct TokenSums {
  static constexpr int V = Tile<T>::lane;
  static constexpr bool kWide = sizeof(T) == sizeof(float);

  const Frame<T>& frame;
  const Patches& patches;
  int64_t c;             // first channel of this lane
  int prompts;           // that are summed
  const float* weights;  // of the frame's tokens, for prompt lane / kBatch; null for no prompt
  float plain[V], weighted[kPrompts][V];

  // Adds tokens first, first + step, ... of the grid.
  template <bool Packs>
  __device__ void add(const TokenGrid& grid, int first, int step, bool for_prompts) {
    if (grid.count <= 0) return;
    int y = first / grid.width, x = first % grid.width;
    const int down = step / grid.width, across = step % grid.width;
    for (int i = first; i < grid.count;) {
      float sum[V] = {}, sums[kPrompts][V] = {};
      for (int batch = 0; batch < kChain && i < grid.count; ++batch) {
        // kept as they come: taken apart at once, each load would wait for the one before
        uint4 tokens[kBatch];
        int own = -1;
#pragma unroll
        for (int b = 0; b < kBatch; ++b, i += step) {
          const int n = (grid.y0 + y) * grid.pitch + grid.x0 + x;
          if (i < grid.count && static_cast<int>(threadIdx.x % kBatch) == b) own = n;
          tokens[b] = load<Packs>(n, i < grid.count);
          y += down;
          x += across;
          if (x >= grid.width) x -= grid.width, ++y;
        }
        const float weight = for_prompts && own >= 0 && weights != nullptr ? __ldcg(weights + own) : 0.0f;
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          float values[V];
          const Pack<T, V> token = *reinterpret_cast<const Pack<T, V>*>(&tokens[b]);
#pragma unroll
          for (int v = 0; v < V; ++v) values[v] = widen(token.lane[v]);
#pragma unroll
          for (int v = 0; v < V; ++v) (kWide ? sum : plain)[v] += values[v];
#pragma unroll
          for (int j = 0; j < kPrompts; ++j) {
            if (!for_prompts || j >= prompts) break;
            const float factor = __shfl_sync(~0u, weight, j * kBatch + b);
#pragma unroll
            for (int v = 0; v < V; ++v) {
              float& total = (kWide ? sums : weighted)[j][v];
              total = fmaf(factor, values[v], total);
            }
          }
        }
      }
      if constexpr (kWide) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          plain[v] += sum[v];
#pragma unroll
          for (int j = 0; j < kPrompts; ++j) weighted[j][v] += sums[j][v];
        }
      }
    }
  }

  // This lane's channels of token n; zeros where there are none.
  template <bool Packs>
  __device__ uint4 load(int n, bool inside) const {
    const T* const from = frame.x + n * patches.row_stride + c * patches.channel_stride;
    uint4 bits = {0, 0, 0, 0};
    if constexpr (Packs) {
      if (inside && c < patches.channels) bits = __ldcg(reinterpret_cast<const uint4*>(from));
    } else {
      Pack<T, V>& token = *reinterpret_cast<Pack<T, V>*>(&bits);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (inside && c + v < patches.channels) token.lane[v] = from[v * patches.channel_stride];
      }
    }
    return bits;
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
// gives the cells and the first prompts' context. (On its own, so that its registers are not held beside those of the scores.)
template <class T, bool Packs>
[[gnu::noinline]] __device__ void sum_slice(const FrameCall& call, int64_t local, const FrameOutputs& outputs, int64_t slice) {
  constexpr int V = Tile<T>::lane;
  const Frame<T> frame(call, local);
  const FrameProblem& problem = call.problem;
  const PoolWindow& pool = problem.pool;
  const int64_t channels = problem.patches.channels, prompts = problem.queries.prompts, cells = pool.cells();
  const int warp = threadIdx.x / kLanes, tokens = static_cast<int>(frame.tokens);
  const int64_t c = slice * Tile<T>::slice + threadIdx.x % kLanes * V;
  const int pitch = static_cast<int>(pool.pitch), height = static_cast<int>(pool.height), width = static_cast<int>(pool.width);
  const bool together = cells > 0 && height * width > 0 && pool.disjoint();
  // A warp takes a cell, or the whole block takes it where there are fewer cells than warps.
  const bool shared_cells = cells < kWarps;
  T* const content = static_cast<T*>(outputs.content) + frame.index * cells * channels;
  TokenSums<T> sums{frame, problem.patches, c, 0, nullptr, {}, {}};

  for (int64_t first = 0; first == 0 || first < prompts; first += kPrompts) {
    const int64_t own = first + threadIdx.x % kLanes / kBatch;
    sums.prompts = static_cast<int>(min(prompts - first, int64_t{kPrompts}));
    sums.weights = own < prompts ? outputs.weights + problem.weights_at(own, frame.index) : nullptr;
#pragma unroll
    for (int i = 0; i < kPrompts * V; ++i) sums.weighted[i / V][i % V] = 0.0f;

    const int64_t rounds = first > 0 ? 0 : shared_cells ? cells : ceil_div(cells, kWarps);
    const bool fused = first == 0 && together;
    // What no cell covers: columns right of the window, of its last row too, then rows below it. Or simply all tokens.
    for (int64_t round = 0; round < rounds + (fused ? 3 : 1); ++round) {
      const bool of_cell = round < rounds;
      const int64_t cell = shared_cells ? round : round * kWarps + warp;
      TokenGrid grid{tokens, 1, 0, 0, 1};
      float area = 0.0f;
      if (of_cell) {
        const Interval none{0, 0}, ys = cell < cells ? pool.rows_of(cell) : none,
                                   xs = cell < cells ? pool.columns_of(cell) : none;
        grid = {static_cast<int>(ys.size() * xs.size()), static_cast<int>(xs.size()), static_cast<int>(ys.begin),
                static_cast<int>(xs.begin), pitch};
        area = static_cast<float>(grid.count);
#pragma unroll
        for (int v = 0; v < V; ++v) sums.plain[v] = 0.0f;
      } else if (fused && round == rounds) {
        grid = {(height - 1) * (pitch - width), pitch - width, 0, width, pitch};
      } else if (fused && round == rounds + 1) {
        grid = {min(pitch - width, tokens - (height - 1) * pitch - width), pitch - width, height - 1, width, pitch};
      } else if (fused) {
        grid = {tokens - height * pitch, 1, height * pitch, 0, 1};
      }
      const bool alone = of_cell && !shared_cells;
      sums.template add<Packs>(grid, alone ? 0 : warp, alone ? 1 : kWarps, fused || !of_cell);
      if (!of_cell) continue;
      if (shared_cells) sum_warps(sums.plain);
      if (cell >= cells || (shared_cells && warp != 0)) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) sums.plain[v] = area == 0.0f ? 0.0f : sums.plain[v] / area;
      store_channels(content + cell * channels, sums.plain, c, channels);
    }
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
