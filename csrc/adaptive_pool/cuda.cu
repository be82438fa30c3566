// One warp for a cell (forward) or a token (backward), lanes along the channels: sums run in one order, nothing is atomic.
#include <algorithm>
#include <type_traits>

#include "adaptive_pool/cuda.h"
#include "common/cuda_launch.cuh"
#include "common/cuda_pack.cuh"

namespace longreel {
namespace {

constexpr int kLanes = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kLanes * kWarps;
// Tokens summed on their own before they join a total: bounds the rounding error of long sums.
constexpr int kChain = 64;
// Twice the warps that a large card holds at once; with fewer rows than that, warps share a row's channels.
constexpr int64_t kBusy = 1 << 14;

// Where a thread starts in a grid of rows x channels, and how far it steps.
struct Lane {
  int64_t row, row_step, channel, channel_step;

  __device__ explicit Lane(int width)
      : row(int64_t{blockIdx.x} * kWarps + threadIdx.y),
        row_step(int64_t{gridDim.x} * kWarps),
        channel((int64_t{blockIdx.y} * kLanes + threadIdx.x) * width),
        channel_step(int64_t{gridDim.y} * kLanes * width) {}
};

template <int V, class T>
__device__ inline void add(float (&sum)[V], const T* from, float weight) {
  const Pack<T, V> pack = load_pack<V>(from);
#pragma unroll
  for (int v = 0; v < V; ++v) sum[v] = fmaf(weight, widen(pack.lane[v]), sum[v]);
}

// Moves the sum of a few tokens into a total.
template <int V>
__device__ inline void flush(float (&sum)[V], float (&chain)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    sum[v] += chain[v];
    chain[v] = 0.0f;
  }
}

// V > 1: the strides and the base allow whole packs.
template <class T, int V>
__global__ void __launch_bounds__(kThreads) average_cells(const T* __restrict__ patches, TokenStrides strides, int64_t frames,
                                                          int64_t channels, PoolWindow window, T* __restrict__ content) {
  const Lane lane(V);
  const int64_t cells = window.cells();
  for (int64_t row = lane.row; row < frames * cells; row += lane.row_step) {
    const int64_t frame = row / cells, cell = row % cells;
    const Interval ys = window.rows_of(cell), xs = window.columns_of(cell);
    const float area = static_cast<float>(ys.size() * xs.size());
    const T* corner = patches + frame * strides.frame + window.prefix * strides.token;
    for (int64_t c = lane.channel; c < channels; c += lane.channel_step) {
      float sum[V] = {}, chain[V] = {};
      int length = 0;
      for (int64_t y = ys.begin; y < ys.end; ++y) {
        const T* from = corner + (y * window.pitch + xs.begin) * strides.token + c * (V > 1 ? 1 : strides.channel);
#pragma unroll 4
        for (int64_t x = xs.begin; x < xs.end; ++x, from += strides.token) {
          add(chain, from, 1.0f);
          if (++length % kChain == 0) flush(sum, chain);
        }
      }
      flush(sum, chain);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] /= area;
      store_pack<V>(content + row * channels + c, sum);
    }
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    gather_cells(const T* __restrict__ grad, TokenStrides strides, int64_t frames, int64_t tokens, int64_t channels,
                 PoolWindow window, T* __restrict__ grad_patches) {
  const Lane lane(V);
  for (int64_t row = lane.row; row < frames * tokens; row += lane.row_step) {
    const int64_t frame = row / tokens, token = row % tokens - window.prefix;
    const int64_t y = token / window.pitch, x = token % window.pitch;
    const bool inside = token >= 0 && y < window.height && x < window.width;
    const Interval none{0, 0};
    const Interval is = inside ? PoolWindow::cells_of_token(y, window.height, window.out_height) : none;
    const Interval js = inside ? PoolWindow::cells_of_token(x, window.width, window.out_width) : none;
    for (int64_t c = lane.channel; c < channels; c += lane.channel_step) {
      float sum[V] = {};
#pragma unroll 1
      for (int64_t i = is.begin; i < is.end; ++i) {
        const int64_t height = PoolWindow::tokens_of_cell(i, window.height, window.out_height).size();
#pragma unroll 1
        for (int64_t j = js.begin; j < js.end; ++j) {
          const int64_t width = PoolWindow::tokens_of_cell(j, window.width, window.out_width).size();
          const T* from =
              grad + frame * strides.frame + (i * window.out_width + j) * strides.token + c * (V > 1 ? 1 : strides.channel);
          add(sum, from, 1.0f / static_cast<float>(height * width));
        }
      }
      store_pack<V>(grad_patches + row * channels + c, sum);
    }
  }
}

struct Shape {
  dim3 grid, block;

  Shape(int64_t rows, int64_t channels, int width) : block(kLanes, kWarps) {
    const int64_t blocks = std::min<int64_t>(ceil_div(rows, kWarps), INT32_MAX);
    const int64_t spans = std::min<int64_t>(ceil_div(channels, kLanes * width), UINT16_MAX);
    grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(rows < kBusy ? spans : 1));
  }
};

// Returns run(T{}, V) for the element type, and 16 bytes or one element a thread.
template <class Packs, class Run>
cudaError_t dispatch(Dtype dtype, Packs can_pack, Run run) {
  return with_element(dtype, [&](auto element) {
    using T = decltype(element);
    return can_pack(element) ? run(element, std::integral_constant<int, kPackBytes / sizeof(T)>{})
                             : run(element, std::integral_constant<int, 1>{});
  });
}

}  // namespace

cudaError_t adaptive_pool_cuda(Dtype dtype, const void* patches, TokenStrides strides, int64_t frames, int64_t channels,
                               const PoolWindow& window, void* content, cudaStream_t stream) {
  const int64_t rows = frames * window.cells();
  if (rows == 0 || channels == 0) return cudaSuccess;
  return dispatch(
      dtype,
      [&](auto element) {
        using T = decltype(element);
        return packs<T>(patches, channels, strides.channel, strides.frame, strides.token);
      },
      [&](auto element, auto width) {
        using T = decltype(element);
        constexpr int V = decltype(width)::value;
        const Shape shape(rows, channels, V);
        return launch(average_cells<T, V>, shape.grid, shape.block, 0, stream, static_cast<const T*>(patches), strides, frames,
                      channels, window, static_cast<T*>(content));
      });
}

cudaError_t adaptive_pool_backward_cuda(Dtype dtype, const void* grad, TokenStrides strides, int64_t frames, int64_t tokens,
                                        int64_t channels, const PoolWindow& window, void* grad_patches, cudaStream_t stream) {
  const int64_t rows = frames * tokens;
  if (rows == 0 || channels == 0) return cudaSuccess;
  return dispatch(
      dtype,
      [&](auto element) {
        using T = decltype(element);
        return packs<T>(grad, channels, strides.channel, strides.frame, strides.token);
      },
      [&](auto element, auto width) {
        using T = decltype(element);
        constexpr int V = decltype(width)::value;
        const Shape shape(rows, channels, V);
        return launch(gather_cells<T, V>, shape.grid, shape.block, 0, stream, static_cast<const T*>(grad), strides, frames,
                      tokens, channels, window, static_cast<T*>(grad_patches));
      });
}

}  // namespace longreel
