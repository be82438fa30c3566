// Products of a block of tokens with another in fp32 registers: see gram_amx.h for what each part means.
#pragma once

#include "common/dots.h"
#include "common/rows.h"
#include "common/scratch.h"
#include "common/transpose.h"
#include "token_density/density_kernel.h"

namespace longreel {
namespace {

template <class T>
class GramFp32 {
 public:
  static constexpr int64_t slice = 256;
  static constexpr int64_t multiple = 16;

  struct Session {
    Session() {}
  };

  GramFp32(int64_t block, Arena& arena) : left_(arena.take<float>(block * slice)), right_(arena.take<float>(block * slice)) {}

  void pack(const T* rows, int64_t stride, int64_t count, int64_t channels) {
    channels_ = channels;
    for (int64_t i = 0; i < round_up(count, 16); ++i) {
      if (i < count) {
        copy_row(rows + i * stride, 1, channels, left_ + i * slice, channels);
      } else {
        std::fill_n(left_ + i * slice, channels, 0.0f);
      }
    }
  }

  void pack_across(const T* rows, int64_t stride, int64_t count, int64_t channels) {
    alignas(64) float sixteen[16 * slice];
    for (int64_t i = 0; i < count; i += 16) {
      for (int64_t j = 0; j < 16; ++j) {
        if (i + j < count) {
          copy_row(rows + (i + j) * stride, 1, channels, sixteen + j * slice, channels);
        } else {
          std::fill_n(sixteen + j * slice, channels, 0.0f);
        }
      }
      transpose_sixteen(sixteen, slice * sizeof(float), channels, right_ + i * slice);
    }
  }

  void multiply(int64_t count, int64_t across, bool upper, float* out, int64_t out_row, bool add) const {
    for (int64_t j = 0; j < across; j += 32) {
      const int64_t rows = upper ? std::min(count, j + 32) : count;
      int64_t i = 0;
      const auto tiles = [&](auto size) {
        constexpr int Rows = decltype(size)::value;
        for (; i + Rows <= rows; i += Rows) {
          const float* x = left_ + i * slice;
          float* to = out + i * out_row + j;
          if (j + 16 < across) {
            dots_tile<StepF32, Rows, 2, false>(x, slice, right_ + j * slice, 16 * slice, channels_, to, out_row, {}, add);
          } else {
            dots_tile<StepF32, Rows, 1, false>(x, slice, right_ + j * slice, 16 * slice, channels_, to, out_row, {}, add);
          }
        }
      };
      tiles(std::integral_constant<int, Tiles::dot_rows>{});
      tiles(std::integral_constant<int, 4>{});
      tiles(std::integral_constant<int, 1>{});
    }
  }

 private:
  float* left_;   // [block][slice]
  float* right_;  // [block / 16][slice][16]
  int64_t channels_ = 0;
};

inline TokenDensityKernel fp32_density_kernel(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return token_density<float, GramFp32<float>>;
    case Dtype::bf16:
      return token_density<bf16, GramFp32<bf16>>;
    case Dtype::f16:
      return token_density<f16, GramFp32<f16>>;
  }
  return nullptr;
}

}  // namespace
}  // namespace longreel
