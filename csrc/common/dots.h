// Scores: dot products of token rows with packed queries, sixteen queries to a panel.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/simd.h"

namespace longreel {
namespace {

// One step of a dot product: an fp32 element of the row against sixteen queries.
struct StepF32 {
  using Row = float;
  using Packed = float;
  static constexpr int64_t width = 1;  // row elements a step

  // Steps summed in one register: runs of sqrt(steps) keep the rounding error of the long sum low.
  static int64_t chain(int64_t steps) { return std::clamp<int64_t>(std::lround(std::sqrt(steps)), 16, 64); }

  static Lanes queries(const float* packed) { return load(packed); }
  static Lanes fold(const float* x, Lanes q, Lanes sum) { return fma(splat(*x), q, sum); }
};

// Rows that are wanted next, fetched while others are multiplied: one line of each every `steps` (a power of two). Null: none.
struct Ahead {
  const void* rows = nullptr;
  int64_t row = 0;    // bytes from one to the next
  int64_t steps = 1;  // of the dot product, for each line of 64 bytes

  template <class T>
  static Ahead of(const T* rows, int64_t row, int64_t step_width) {
    constexpr int64_t size = sizeof(T);
    return {rows, row * size, 64 / size / step_width};
  }
  Ahead from(int64_t i) const { return {rows == nullptr ? nullptr : static_cast<const char*>(rows) + i * row, row, steps}; }

  template <int Rows>
  void fetch(int64_t k) const {
    if (rows == nullptr || (k & (steps - 1)) != 0) return;
    const char* line = static_cast<const char*>(rows) + k / steps * 64;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) __builtin_prefetch(line + r * row);
  }
};

// s[n][m] = x_n . q_m for Rows tokens and Panels x 16 queries; with `add` it is added. Fetch: `ahead` may name rows; its test in
// the inner loop is a tenth of short sums.
template <class Step, int Rows, int Panels, bool Fetch = true>
inline void dots_tile(const typename Step::Row* x, int64_t x_row, const typename Step::Packed* q, int64_t q_panel,
                      int64_t steps, float* s, int64_t s_row, const Ahead& ahead, bool add = false) {
  const int64_t chain = Step::chain(steps);
  for (int64_t begin = 0; begin < steps; begin += chain) {
    const int64_t end = std::min(begin + chain, steps);
    Lanes acc[Rows][Panels];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) acc[r][p] = splat(0.0f);
    }
    for (int64_t k = begin; k < end; ++k) {
      decltype(Step::queries(q)) queries[Panels];
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) queries[p] = Step::queries(q + p * q_panel + k * 16);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < Panels; ++p) acc[r][p] = Step::fold(x + r * x_row + k * Step::width, queries[p], acc[r][p]);
      }
      if constexpr (Fetch) ahead.fetch<Rows>(k);
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) {
        float* at = s + r * s_row + p * 16;
        store(at, begin == 0 && !add ? acc[r][p] : load(at) + acc[r][p]);
      }
    }
  }
}

// How rows of a frame become scores: element and packed types, padding, and the products themselves.
template <class Step>
struct VectorDots {
  using Row = typename Step::Row;
  using Packed = typename Step::Packed;
  static constexpr int64_t pair = Step::width;      // row elements in one packed unit
  static constexpr int64_t multiple = Step::width;  // C is padded to a multiple of this
  static constexpr int64_t rows_multiple = 1;       // tokens are padded to a multiple of this
  static constexpr int64_t tile = Tiles::dot_rows;  // tokens that are multiplied at once

  // Held by a worker while it calls run().
  struct Session {
    Session() {}
  };

  // x [n, C], packed q [panels, C / pair, 16] -> s [n, panels * 16]; as many rows `ahead` are fetched meanwhile
  static void run(const Row* x, int64_t x_row, int64_t n, const Packed* q, int64_t panels, int64_t channels, float* s,
                  int64_t s_row, const Ahead& ahead = {}) {
    const int64_t steps = channels / Step::width;
    int64_t p = 0;
    auto panels_at_once = [&](auto count) {
      constexpr int Panels = decltype(count)::value;
      for (; p + Panels <= panels; p += Panels) {
        run_panels<Panels>(x, x_row, n, q + p * steps * 16, steps, s + p * 16, s_row, p == 0 ? ahead : Ahead{});
      }
    };
    panels_at_once(std::integral_constant<int, Tiles::dot_panels>{});
    panels_at_once(std::integral_constant<int, 1>{});
  }

 private:
  template <int Panels>
  static void run_panels(const Row* x, int64_t x_row, int64_t n, const Packed* q, int64_t steps, float* s, int64_t s_row,
                         const Ahead& ahead) {
    int64_t i = 0;
    auto rows_at_once = [&](auto count) {
      constexpr int Rows = decltype(count)::value;
      for (; i + Rows <= n; i += Rows) {
        dots_tile<Step, Rows, Panels>(x + i * x_row, x_row, q, steps * 16, steps, s + i * s_row, s_row, ahead.from(i));
      }
    };
    rows_at_once(std::integral_constant<int, Tiles::dot_rows>{});
    rows_at_once(std::integral_constant<int, Tiles::dot_rows / 2>{});
    rows_at_once(std::integral_constant<int, 1>{});
  }
};

using DotsF32 = VectorDots<StepF32>;

// out[n] = x_n . v for an fp32 vector v padded with zeros to a multiple of 16
template <class T>
inline void dot_vector(const T* x, int64_t x_row, int64_t n, const float* v, int64_t channels, float* out) {
  const int64_t whole = channels / 16 * 16;
  auto rows = [&](int64_t i, auto count) {
    constexpr int Rows = decltype(count)::value;
    Lanes acc[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) acc[r] = splat(0.0f);
    for (int64_t c = 0; c < whole; c += 16) {
      const Lanes vc = load(v + c);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) acc[r] = fma(load(x + (i + r) * x_row + c), vc, acc[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      if (whole < channels) acc[r] = fma(load(x + (i + r) * x_row + whole, channels - whole), load(v + whole), acc[r]);
      out[i + r] = sum(acc[r]);
    }
  };
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) rows(i, std::integral_constant<int, 4>{});
  for (; i < n; ++i) rows(i, std::integral_constant<int, 1>{});
}

}  // namespace
}  // namespace longreel
