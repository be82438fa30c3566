// Weighted sums of rows: out_r += sum_k a_rk row_k.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/simd.h"

namespace longreel {
namespace {

// Coefficients a[r * row + k * step].
struct Coefficients {
  const float* a;
  int64_t row;
  int64_t step;

  Coefficients from(int64_t r) const { return {a + r * row, row, step}; }
};

// Terms summed in one register before they join the output: bounds the rounding error of long sums.
constexpr int64_t kCombineChain = 64;

// R outputs x V x 16 channels from c on; only the first `count` of 16 when Partial. out is padded to whole lanes.
template <int R, int V, bool Partial, class T>
inline void combine_tile(Coefficients a, const T* const* rows, int64_t terms, int64_t c, int64_t count, float* out,
                         int64_t out_row) {
  for (int64_t begin = 0; begin < terms; begin += kCombineChain) {
    const int64_t end = std::min(begin + kCombineChain, terms);
    Lanes acc[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[r][v] = splat(0.0f);
    }
    for (int64_t k = begin; k < end; ++k) {
      Lanes x[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) x[v] = Partial ? load(rows[k] + c, count) : load(rows[k] + c + v * 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Lanes w = splat(a.a[r * a.row + k * a.step]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[r][v] = fma(w, x[v], acc[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        float* at = out + r * out_row + c + v * 16;
        store(at, load(at) + acc[r][v]);
      }
    }
  }
}

// All outputs for V x 16 channels: the rows stay in the nearest cache from one tile of outputs to the next.
template <int V, bool Partial, class T>
inline void combine_channels(Coefficients a, int64_t outputs, const T* const* rows, int64_t terms, int64_t c, int64_t count,
                             float* out, int64_t out_row) {
  int64_t r = 0;
  auto tiles = [&](auto size) {
    constexpr int R = decltype(size)::value;
    if constexpr (R * V <= Tiles::sums) {
      for (; r + R <= outputs; r += R) {
        combine_tile<R, V, Partial>(a.from(r), rows, terms, c, count, out + r * out_row, out_row);
      }
    }
  };
  tiles(std::integral_constant<int, Tiles::sum_rows>{});
  tiles(std::integral_constant<int, 2>{});
  tiles(std::integral_constant<int, 1>{});
}

// rows: `terms` pointers to [channels] -> out [outputs, channels] += a [outputs, terms] . rows
template <class T>
inline void combine(Coefficients a, int64_t outputs, const T* const* rows, int64_t terms, int64_t channels, float* out,
                    int64_t out_row) {
  int64_t c = 0;
  auto lanes = [&](auto width) {
    constexpr int V = decltype(width)::value;
    for (; c + V * 16 <= channels; c += V * 16) combine_channels<V, false>(a, outputs, rows, terms, c, 16, out, out_row);
  };
  if (outputs == 1) lanes(std::integral_constant<int, Tiles::single_lanes>{});
  if (outputs == 2) lanes(std::integral_constant<int, Tiles::pair_lanes>{});
  lanes(std::integral_constant<int, Tiles::sum_lanes>{});
  lanes(std::integral_constant<int, 1>{});
  if (c < channels) combine_channels<1, true>(a, outputs, rows, terms, c, channels - c, out, out_row);
}

}  // namespace
}  // namespace longreel
