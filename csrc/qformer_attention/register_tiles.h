// Products in registers: out [m, n] = left [m, k] right [k, n], k in units of four bytes: an fp32 number, or two bf16 ones that follow
// one another in the sum.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/scratch.h"
#include "common/simd.h"

namespace longreel {
namespace {

// Unit (r, i) of a left side, r row + i step bytes from the first: row or step is that of touching units.
struct UnitRows {
  const char* data = nullptr;
  int64_t row = 0, step = 0;

  UnitRows from(int64_t r) const { return {data + r * row, row, step}; }
  UnitRows behind(int64_t i) const { return {data + i * step, row, step}; }
};

// [n / group][k][group] units, the last group as wide as what is left in sixteens
struct UnitGroups {
  char* data = nullptr;
  int64_t k = 0;
};

// Step: what a unit is and how it is folded into sums.
template <class Step>
struct RegisterTiles {
  static constexpr int64_t kUnit = 4;  // bytes
  // Terms whose right side, of one group, stays in the nearest cache while all rows pass; at most so many are summed in one
  // register, which bounds the rounding error of long sums.
  static constexpr int64_t kTerms = 128;

  static UnitGroups take(int64_t k, int64_t n, Arena& arena) { return {arena.take<char>(round_up(n, 16) * k * kUnit), k}; }

  // f(first column, columns, where they are packed) of each group
  template <class F>
  static void for_groups(const UnitGroups& right, int64_t n, F f) {
    const int64_t padded = round_up(n, 16);
    for (int64_t first = 0; first < padded; first += kGroup) {
      f(first, std::min(kGroup, padded - first), right.data + first * right.k * kUnit);
    }
  }

  // `run` terms are summed in one register.
  static void multiply(const UnitRows& left, int64_t m, const UnitGroups& right, int64_t n, float* out, int64_t out_row,
                       bool add, int64_t run) {
    const int64_t step = kTerms / run * run;
    for_groups(right, n, [&](int64_t first, int64_t width, const char* group) {
      for (int64_t k = 0; k < std::max<int64_t>(right.k, 1); k += step) {
        const int64_t terms = std::min(right.k - k, step);
        lanes<kLanes>(width / 16, left.behind(k), m, group + k * width * kUnit, {terms, run}, out + first, out_row,
                      add || k > 0);
      }
    });
  }

 private:
  static constexpr int kRows = Tiles::product_rows, kLanes = Tiles::product_lanes;
  static constexpr int64_t kGroup = 16 * kLanes;

  // How many terms there are, and how many are summed in one register.
  struct Terms {
    int64_t count, run;
  };

  template <int V>
  static void lanes(int64_t width, const UnitRows& left, int64_t m, const char* right, Terms terms, float* out, int64_t out_row,
                    bool add) {
    if (width == V) return rows<V>(left, m, right, terms, out, out_row, add);
    if constexpr (V > 1) lanes<V - 1>(width, left, m, right, terms, out, out_row, add);
  }

  template <int V>
  static void rows(const UnitRows& left, int64_t m, const char* right, Terms terms, float* out, int64_t out_row, bool add) {
    int64_t i = 0;
    const auto tiles = [&](auto count) {
      constexpr int R = decltype(count)::value;
      for (; i + R <= m; i += R) {
        const auto run = left.step == kUnit ? tile<R, V, true> : tile<R, V, false>;
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
  static void tile(UnitRows left, const char* right, Terms terms, float* out, int64_t out_row, bool add) {
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
        decltype(Step::right(right)) x[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) x[v] = Step::right(right + (i * V + v) * 16 * kUnit);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const auto a = Step::left(left.data + (Along ? r * left.row + i * kUnit : r * kUnit + i * left.step));
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) acc[r][v] = Step::fold(a, x[v], acc[r][v]);
        }
        if (Along && i % 16 == 0) {
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) __builtin_prefetch(left.data + (r + R) * left.row + i * kUnit);
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
