// Matrix products of the absorbed form in fp32 registers: see products_amx.h for what each of them means.
#pragma once

#include "common/combine.h"
#include "common/dots.h"
#include "common/scratch.h"
#include "common/transpose.h"

namespace longreel {
namespace {

struct QFormerVectorProducts {
  using Element = float;
  static constexpr int64_t multiple = 16;      // channels and columns are padded to it
  static constexpr int64_t rows_multiple = 1;  // keys are padded to it
  static constexpr int64_t block_keys = 128;

  static constexpr bool rounds = false;

  struct Session {
    Session() {}
  };

  // [m, k], read in place
  struct Left {
    const float* data = nullptr;
    int64_t row = 0, step = 1;
  };
  // Right side whose rows lie along the sum: [n / 16][k][16]
  struct Panels {
    float* data = nullptr;
    int64_t k = 0;
  };
  // Right side whose rows are summed, read in place: [k, n]
  struct Rows {
    const float* data = nullptr;
    int64_t stride = 0, k = 0;
    const float** pointers = nullptr;
  };

  static Left take_left(int64_t, int64_t, Arena&) { return {}; }
  static Panels take_panels(int64_t n, int64_t k, Arena& arena) { return {arena.take<float>(round_up(n, 16) * k), k}; }
  static Rows take_rows(int64_t k, int64_t, Arena& arena) { return {nullptr, 0, k, arena.take<const float*>(k)}; }

  static void pack(const float* a, int64_t row, int64_t step, int64_t /*m*/, int64_t /*k*/, Left& left) {
    left = {a, row, step};
  }

  // rows [n, k]; those from n on to the next multiple of 16 are zero
  static void pack_panels(const float* rows, int64_t stride, int64_t n, int64_t k, Panels& panels) {
    panels.k = k;
    for (int64_t first = 0; first < n; first += 16) {
      float* to = panels.data + first * k;
      if (first + 16 <= n) {
        transpose_sixteen(rows + first * stride, stride * sizeof(float), k, to);
        continue;
      }
      for (int64_t c = 0; c < k; ++c) {
        for (int64_t j = 0; j < 16; ++j) to[c * 16 + j] = first + j < n ? rows[(first + j) * stride + c] : 0.0f;
      }
    }
  }

  static void pack_rows(const float* rows, int64_t stride, int64_t k, int64_t /*n*/, Rows& right) {
    right.data = rows;
    right.stride = stride;
    right.k = k;
    for (int64_t i = 0; i < k; ++i) right.pointers[i] = rows + i * stride;
  }

  // out [m, n] = left [m, k] panels^T
  static void dots(const Left& left, int64_t m, const Panels& panels, int64_t n, float* out, int64_t out_row) {
    DotsF32::run(left.data, left.row, m, panels.data, round_up(n, 16) / 16, panels.k, out, out_row);
  }

  // out [m, n] = or += left [m, k] rows
  static void sums(const Left& left, int64_t m, const Rows& rows, int64_t n, float* out, int64_t out_row, bool add) {
    for (int64_t r = 0; !add && r < m; ++r) std::fill_n(out + r * out_row, round_up(n, multiple), 0.0f);
    combine(Coefficients{left.data, left.row, left.step}, m, rows.pointers, rows.k, n, out, out_row);
  }
};

}  // namespace
}  // namespace longreel
