// Products of strips in fp32.
#pragma once

#include "block_sparse_attention/few_rows.h"
#include "block_sparse_attention/packing.h"
#include "common/dots.h"
#include "common/exp.h"
#include "common/simd.h"

namespace longreel {
namespace {

// out [rows, 16 panels] = x [rows, depth] y, added to what is there with `add`
template <class Step>
inline void multiply_strip(const typename Step::Row* x, int64_t x_row, int64_t rows, Panels<typename Step::Packed> y,
                           int64_t panels, int64_t depth, float* out, int64_t out_row, bool add) {
  int64_t p = 0;
  // `most` rows at once, while there are so many
  auto panels_at_once = [&](auto panel_count, auto most) {
    constexpr int P = decltype(panel_count)::value, Most = decltype(most)::value;
    int64_t r = 0;
    auto rows_at_once = [&](auto row_count) {
      constexpr int R = decltype(row_count)::value;
      for (; r + R <= rows; r += R) {
        dots_tile<Step, R, P, false>(x + r * x_row, x_row, y.data + p * y.stride, y.stride, depth / Step::width,
                                     out + r * out_row + p * 16, out_row, {}, add);
      }
    };
    rows_at_once(std::integral_constant<int, Most>{});
    if constexpr (Most > 4) rows_at_once(std::integral_constant<int, 4>{});
    rows_at_once(std::integral_constant<int, 1>{});
    p += P;
  };
  using Rows = std::integral_constant<int, Tiles::strip_rows>;
  if constexpr (Tiles::strip_panels == 4) {
    // Nothing narrow is left over that could not fill the registers: 5 panels are 3 and 2, 6 are 3 and 3.
    using Eight = std::integral_constant<int, 8>;
    while (panels - p >= 7 || panels - p == 4) panels_at_once(std::integral_constant<int, 4>{}, Rows{});
    while (panels - p >= 3) panels_at_once(std::integral_constant<int, 3>{}, Eight{});
    if (panels - p == 2) panels_at_once(std::integral_constant<int, 2>{}, Eight{});
    if (panels - p == 1) panels_at_once(std::integral_constant<int, 1>{}, Eight{});
  } else {
    while (p < panels) panels_at_once(std::integral_constant<int, 1>{}, Rows{});
  }
}

// Scores: half of the channels are summed in one register. All of them would break the error budget, runs of sixteen cost a sixth.
struct ScoreStepF32 : StepF32 {
  static int64_t chain(int64_t steps) { return std::clamp<int64_t>((steps + 1) / 2, 16, 64); }
};

// Sums over keys: the block's terms are summed in one register before they join what is there.
struct SumStepF32 : StepF32 {
  static int64_t chain(int64_t steps) { return steps; }
};

// Strips that meet their keys one by one.
struct NoPairs {
  static constexpr bool there = false;
  struct Step {};
  NoPairs(Arena&, int64_t) {}
};

struct StripsFp32 {
  using Pairs = NoPairs;
  using Element = float;
  using Unit = float;
  static constexpr int64_t pair = 1;      // elements in a unit
  static constexpr bool exact = true;     // weights carry all of fp32
  static constexpr float per_e = kLog2E;  // power(per_e x) = e^x

  struct Session {
    Session() {}
  };

  // While it lives, products have so many rows.
  struct Rows {
    explicit Rows(int64_t) {}
  };

  static Lanes power(Lanes x) { return exp2(x); }

  static void store_weights(float* to, Lanes x) { store(to, x); }

  // The same as a sum of `parts` arrays, `apart` elements from one to the next.
  static constexpr int64_t parts = 1;
  static void store_parts(float* to, int64_t /*apart*/, Lanes x) { store(to, x); }

  // Rows [count, width], `row` elements apart, become the depth of width / 16 panels; those `ahead` elements behind are fetched
  // meanwhile, unless 0.
  static void rows_to_depth(const float* rows, int64_t row, int64_t width, int64_t count, Panels<float> panels,
                            int64_t ahead = 0) {
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t c = 0; c < width; c += 16) {
        if (ahead != 0) __builtin_prefetch(rows + k * row + c + ahead, 0, 2);
        store(panels.data + c / 16 * panels.stride + k * 16, load(rows + k * row + c));
      }
    }
  }

  // A state of at most so many rows that has its block of keys to itself meets it unpacked.
  static constexpr int64_t few_rows = Tiles::few_rows;

  // Its query rows [kStrip, width], as score_few() takes them.
  static void stage_few(float* /*queries*/, int64_t /*width*/) {}

  // scores [rows, kBlock] of a whole block of keys
  static void score_few(const float* queries, int64_t width, int64_t rows, const float* keys, int64_t key_row, int64_t ahead,
                        float* scores) {
    longreel::score_few<AlongF32>(queries, width, rows, keys, key_row, ahead, scores);
  }

  // acc [rows, width] += weights values, over the keys of the block; panels: room for a packed block
  static void sum_few(const float* weights, int64_t rows, const float* values, int64_t value_row, Span keys, int64_t width,
                      int64_t ahead, Panels<float> /*panels*/, float* acc) {
    longreel::sum_few<OverF32>(weights + keys.begin, rows, values + keys.begin * value_row, value_row, keys.size(), width,
                               ahead, acc);
  }

  static void multiply(const float* x, int64_t x_row, int64_t rows, Panels<float> y, int64_t panels, int64_t depth, float* out,
                       int64_t out_row, bool add) {
    if (add) {
      multiply_strip<SumStepF32>(x, x_row, rows, y, panels, depth, out, out_row, true);
    } else {
      multiply_strip<ScoreStepF32>(x, x_row, rows, y, panels, depth, out, out_row, false);
    }
  }
};

}  // namespace
}  // namespace longreel
