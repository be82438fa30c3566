// Matrix products of the absorbed form in fp32 registers: see products_amx.h for what each of them means.
//
// bf16 too: where there are no tiles, AVX512_BF16 multiplies pairs at half the rate of this (0.46 and 2.0 instructions a cycle
// measured on a Sapphire Rapids).
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "common/combine.h"
#include "common/scratch.h"
#include "common/transpose.h"

namespace longreel {
namespace {

struct QFormerVectorProducts {
  using Element = float;
  static constexpr int64_t multiple = 16;      // channels and columns are padded to it
  static constexpr int64_t rows_multiple = 1;  // keys are padded to it
  static constexpr int64_t block_keys = 128;

  static constexpr bool rounds = false, packs_given = false;

  struct Session {
    Session() {}
  };

  // [m, k], read in place: row or step is 1
  using Left = Coefficients;
  // [n / group][k][group], the last group as wide as what is left in sixteens
  struct Right {
    float* data = nullptr;
    int64_t k = 0;
  };
  using Panels = Right;
  using Rows = Right;

  static Left take_left(int64_t, int64_t, Arena&) { return {}; }
  static Right take_right(int64_t k, int64_t n, Arena& arena) { return {arena.take<float>(round_up(n, 16) * k), k}; }
  static Panels take_panels(int64_t n, int64_t k, Arena& arena) { return take_right(k, n, arena); }
  static Rows take_rows(int64_t k, int64_t n, Arena& arena) { return take_right(k, n, arena); }

  static void pack(const float* a, int64_t row, int64_t step, int64_t /*m*/, int64_t /*k*/, Left& left) {
    left = {a, row, step};
  }

  // rows [n, k], right sides that lie along the sum
  static void pack_panels(const float* rows, int64_t stride, int64_t n, int64_t k, Panels& panels) {
    panels.k = k;
    for_groups(n, [&](int64_t first, int64_t width) {
      for (int64_t i = first; i < first + width; i += 16) {
        float* to = panels.data + first * k + (i - first);
        if (i + 16 <= n) {
          transpose_sixteen(rows + i * stride, stride * sizeof(float), k, to, 0, width * sizeof(float));
          continue;
        }
        for (int64_t c = 0; c < k; ++c) {
          for (int64_t j = 0; j < 16; ++j) to[c * width + j] = i + j < n ? rows[(i + j) * stride + c] : 0.0f;
        }
      }
    });
  }

  // rows [k, n], which are summed
  static void pack_rows(const float* rows, int64_t stride, int64_t k, int64_t n, Rows& right) {
    right.k = k;
    for_groups(n, [&](int64_t first, int64_t width) {
      float* to = right.data + first * k;
      for (int64_t i = 0; i < k; ++i, to += width) {
        for (int64_t j = 0; j < width; j += 16) {
          const float* from = rows + i * stride + first + j;
          store(to + j, n - first - j >= 16 ? load(from) : load(from, n - first - j));
        }
      }
    });
  }

  // out [m, n] = left [m, k] panels^T; runs of sqrt(k) terms keep low what a softmax would make much of
  static void dots(const Left& left, int64_t m, const Panels& panels, int64_t n, float* out, int64_t out_row) {
    const int64_t run = std::clamp<int64_t>(std::lround(std::sqrt(panels.k)), 16, 64);
    multiply(left, m, panels, n, out, out_row, false, run);
  }

  // out [m, n] = or += left [m, k] rows
  static void sums(const Left& left, int64_t m, const Rows& rows, int64_t n, float* out, int64_t out_row, bool add) {
    multiply(left, m, rows, n, out, out_row, add, kTerms);
  }

 private:
  static constexpr int kRows = Tiles::product_rows, kLanes = Tiles::product_lanes;
  static constexpr int64_t kGroup = 16 * kLanes;
  // Terms whose right side, of one group, stays in the nearest cache while all rows pass; at most so many are summed in one
  // register, which bounds the rounding error of long sums.
  static constexpr int64_t kTerms = 128;

  template <class F>
  static void for_groups(int64_t n, F f) {
    const int64_t padded = round_up(n, 16);
    for (int64_t first = 0; first < padded; first += kGroup) f(first, std::min(kGroup, padded - first));
  }

  static void multiply(const Left& left, int64_t m, const Right& right, int64_t n, float* out, int64_t out_row, bool add,
                       int64_t run) {
    const int64_t step = kTerms / run * run;
    for_groups(n, [&](int64_t first, int64_t width) {
      const float* group = right.data + first * right.k;
      for (int64_t k = 0; k < std::max<int64_t>(right.k, 1); k += step) {
        const int64_t terms = std::min(right.k - k, step);
        const Left from{left.a + k * left.step, left.row, left.step};
        lanes<kLanes>(width / 16, from, m, group + k * width, {terms, run}, out + first, out_row, add || k > 0);
      }
    });
  }

  // How many terms there are, and how many are summed in one register.
  struct Terms {
    int64_t count, run;
  };

  template <int V>
  static void lanes(int64_t width, const Left& left, int64_t m, const float* right, Terms terms, float* out, int64_t out_row,
                    bool add) {
    if (width == V) return rows<V>(left, m, right, terms, out, out_row, add);
    if constexpr (V > 1) lanes<V - 1>(width, left, m, right, terms, out, out_row, add);
  }

  template <int V>
  static void rows(const Left& left, int64_t m, const float* right, Terms terms, float* out, int64_t out_row, bool add) {
    int64_t i = 0;
    const auto tiles = [&](auto count) {
      constexpr int R = decltype(count)::value;
      for (; i + R <= m; i += R) {
        const auto run = left.step == 1 ? tile<R, V, true> : tile<R, V, false>;
        run(left.from(i), right, terms, out + i * out_row, out_row, add);
      }
    };
    tiles(std::integral_constant<int, kRows>{});
    tiles(std::integral_constant<int, kRows / 2>{});
    if constexpr (kRows > 4) tiles(std::integral_constant<int, 2>{});
    tiles(std::integral_constant<int, 1>{});
  }

  // R x V x 16 outputs; along: rows of the left side are contiguous, and those of the next tile are fetched meanwhile; else its
  // columns are
  template <int R, int V, bool Along>
  static void tile(Left left, const float* right, Terms terms, float* out, int64_t out_row, bool add) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      // what is added to may be far away
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) __builtin_prefetch(out + r * out_row + v * 16, 1);
    }
    for (int64_t k = 0, end;; k = end) {
      end = std::min(k + terms.run, terms.count);
      Lanes acc[R][V];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = splat(0.0f);
      }
      for (int64_t i = k; i < end; ++i) {
        Lanes x[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) x[v] = load(right + (i * V + v) * 16);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Lanes a = splat(left.a[Along ? r * left.row + i : r + i * left.step]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) acc[r][v] = fma(a, x[v], acc[r][v]);
        }
        if (Along && i % 16 == 0) {
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) __builtin_prefetch(left.a + (r + R) * left.row + i);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          float* at = out + r * out_row + v * 16;
          store(at, add ? load(at) + acc[r][v] : acc[r][v]);
        }
      }
      add = true;
      if (end == terms.count) break;
    }
  }
};

}  // namespace
}  // namespace longreel
