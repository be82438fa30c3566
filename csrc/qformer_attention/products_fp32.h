// Matrix products of the absorbed form in fp32 registers: see products_amx.h for what each of them means.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/transpose.h"
#include "qformer_attention/register_tiles.h"

namespace longreel {
namespace {

// One fp32 number a unit
struct UnitF32 {
  static Lanes right(const char* x) { return load(reinterpret_cast<const float*>(x)); }
  static Lanes left(const char* x) { return splat(*reinterpret_cast<const float*>(x)); }
  static Lanes fold(Lanes a, Lanes x, Lanes sum) { return fma(a, x, sum); }
};

struct QFormerVectorProducts {
  using Element = float;
  using Left = UnitRows;
  using Panels = UnitGroups;
  using Rows = UnitGroups;
  static constexpr int64_t multiple = 16;          // channels and columns are padded to it
  static constexpr int64_t rows_multiple = 1;      // keys are padded to it
  static constexpr int64_t channels_in_place = 1;  // keys of a multiple of it are read where they stand
  static constexpr int64_t block_keys = 128;

  static constexpr bool rounds = false, packs_given = false;

  struct Session {
    Session() {}
  };

  static Left take_left(int64_t, int64_t, Arena&) { return {}; }
  static Panels take_panels(int64_t n, int64_t k, Arena& arena) { return Products::take(k, n, arena); }
  static Rows take_rows(int64_t k, int64_t n, Arena& arena) { return Products::take(k, n, arena); }

  static void pack(const float* a, int64_t row, int64_t step, int64_t /*m*/, int64_t /*k*/, Left& left) {
    constexpr int64_t size = sizeof(float);
    left = {reinterpret_cast<const char*>(a), row * size, step * size};
  }

  // rows [n, k], right sides that lie along the sum
  static void pack_panels(const float* rows, int64_t stride, int64_t n, int64_t k, Panels& panels) {
    panels.k = k;
    Products::for_groups(panels, n, [&](int64_t first, int64_t width, char* group) {
      for (int64_t i = first; i < first + width; i += 16) {
        float* to = reinterpret_cast<float*>(group) + (i - first);
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
    Products::for_groups(right, n, [&](int64_t first, int64_t width, char* group) {
      float* to = reinterpret_cast<float*>(group);
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
    Products::multiply(left, m, panels, n, out, out_row, false, run);
  }

  // out [m, n] = or += left [m, k] rows
  static void sums(const Left& left, int64_t m, const Rows& rows, int64_t n, float* out, int64_t out_row, bool add) {
    Products::multiply(left, m, rows, n, out, out_row, add, Products::kTerms);
  }

 private:
  using Products = RegisterTiles<UnitF32>;
};

}  // namespace
}  // namespace longreel
