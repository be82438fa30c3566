// Products of a block of tokens with another in registers: see gram_amx.h for what each part means.
#pragma once

#include "common/dots.h"
#include "common/rows.h"
#include "common/scratch.h"
#include "common/transpose.h"
#include "token_density/density_kernel.h"

namespace longreel {
namespace {

// Step: fp32 numbers, or pairs of bf16 ones, four bytes each
template <class T, class Step = StepF32>
class GramRegisters {
 public:
  static constexpr int64_t slice = 256 * Step::width;
  static constexpr int64_t multiple = 16;

  struct Session {
    Session() {}
  };

  GramRegisters(int64_t block, Arena& arena)
      : left_(arena.take<Row>(block * slice)), right_(arena.take<Unit>(block * kUnits)) {}

  void pack(const T* rows, int64_t stride, int64_t count, int64_t channels) {
    units_ = ceil_div(channels, Step::width);
    for (int64_t i = 0; i < round_up(count, 16); ++i) {
      if (i < count) {
        copy_row(rows + i * stride, 1, channels, left_ + i * slice, units_ * Step::width);
      } else {
        std::fill_n(left_ + i * slice, units_ * Step::width, Row{});
      }
    }
  }

  void pack_across(const T* rows, int64_t stride, int64_t count, int64_t channels) {
    alignas(64) Row sixteen[16 * slice];
    for (int64_t i = 0; i < count; i += 16) {
      for (int64_t j = 0; j < 16; ++j) {
        Row* to = sixteen + j * slice;
        if (i + j < count) {
          copy_row(rows + (i + j) * stride, 1, channels, to, units_ * Step::width);
        } else {
          std::fill_n(to, units_ * Step::width, Row{});
        }
      }
      transpose_sixteen(sixteen, slice * sizeof(Row), units_, right_ + i * kUnits);
    }
  }

  void multiply(int64_t count, int64_t across, bool upper, float* out, int64_t out_row, bool add) const {
    for (int64_t j = 0; j < across; j += 32) {
      const int64_t rows = upper ? std::min(count, j + 32) : count;
      int64_t i = 0;
      const auto tiles = [&](auto size) {
        constexpr int Rows = decltype(size)::value;
        for (; i + Rows <= rows; i += Rows) {
          const Row* x = left_ + i * slice;
          float* to = out + i * out_row + j;
          if (j + 16 < across) {
            dots_tile<Step, Rows, 2, false>(x, slice, right_ + j * kUnits, 16 * kUnits, units_, to, out_row, {}, add);
          } else {
            dots_tile<Step, Rows, 1, false>(x, slice, right_ + j * kUnits, 16 * kUnits, units_, to, out_row, {}, add);
          }
        }
      };
      tiles(std::integral_constant<int, Tiles::dot_rows>{});
      tiles(std::integral_constant<int, 4>{});
      tiles(std::integral_constant<int, 1>{});
    }
  }

 private:
  using Row = typename Step::Row;
  using Unit = typename Step::Packed;
  static constexpr int64_t kUnits = slice / Step::width;

  Row* left_;    // [block][slice]
  Unit* right_;  // [block / 16][units][16]
  int64_t units_ = 0;
};

inline TokenDensityKernel fp32_density_kernel(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return token_density<float, GramRegisters<float>>;
    case Dtype::bf16:
      return token_density<bf16, GramRegisters<bf16>>;
    case Dtype::f16:
      return token_density<f16, GramRegisters<f16>>;
  }
  return nullptr;
}

}  // namespace
}  // namespace longreel
