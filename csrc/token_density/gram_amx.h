// Products of a block of tokens with another on AMX tiles.
//
// A number enters as the sum of Planes bf16 numbers: one for bf16, three for fp32, whose 24 bits they hold. Of the nine products of
// two such sums the six that reach 2^-24 are added up, in fp32.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "common/dots_amx.h"
#include "common/scratch.h"
#include "common/simd.h"
#include "common/transpose.h"

namespace longreel {
namespace {

template <int Planes>
class GramAmx {
 public:
  using T = std::conditional_t<Planes == 1, bf16, float>;
  static constexpr int64_t slice = Planes == 1 ? 384 : 128;  // channels at a time: both sides stay in the second cache
  static constexpr int64_t multiple = 32;                    // blocks are padded to it

  using Session = TileSession;

  GramAmx(int64_t block, Arena& arena)
      : left_(arena.take<char>(block / 16 * kSteps * kStep)), right_(arena.take<char>(block / 16 * kSteps * kStep)) {}

  // The left side: channels of `count` rows, zeros up to `multiple`.
  void pack(const T* rows, int64_t stride, int64_t count, int64_t channels) {
    steps_ = ceil_div(channels, 32);
    for (int64_t i = 0; i < round_up(count, 32); i += 16) {
      for (int64_t k = 0; k < steps_; ++k)
        tile(rows + i * stride + k * 32, stride, count - i, channels - k * 32, at(left_, i, k));
    }
  }

  // The right side, to be multiplied across.
  void pack_across(const T* rows, int64_t stride, int64_t count, int64_t channels) {
    alignas(64) char staged[kStep];
    for (int64_t i = 0; i < round_up(count, 32); i += 16) {
      for (int64_t k = 0; k < steps_; ++k) {
        tile(rows + i * stride + k * 32, stride, count - i, channels - k * 32, staged);
        for (int p = 0; p < Planes; ++p) transpose_block(staged + p * kTile, 64, at(right_, i, k) + p * kTile, 64);
      }
    }
  }

  // out [count, across] = or += left right^T, padded to `multiple`; upper: of 32 x 32 outputs those on the diagonal and above
  void multiply(int64_t count, int64_t across, bool upper, float* out, int64_t out_row, bool add) const {
    writes_before_tiles();
    for (int64_t j = 0; j < across; j += 32) {
      for (int64_t i = 0; i < (upper ? std::min(count, j + 32) : count); i += 32) {
        block(at(left_, i, 0), at(right_, j, 0), out + i * out_row + j, out_row * 4, add);
      }
    }
  }

 private:
  static constexpr int64_t kTile = 1024, kStep = Planes * kTile;  // bytes
  static constexpr int64_t kSteps = slice / 32;

  static char* at(char* side, int64_t row, int64_t step) { return side + (row / 16 * kSteps + step) * kStep; }

  // 32 x 32 outputs
  void block(const char* a, const char* b, float* out, int64_t out_bytes, bool add) const {
    // fp32 is summed slice by slice: the terms of all would round too often in one register
    alignas(64) float apart[32 * 32];
    float* const sums = out;
    const int64_t sums_row = out_bytes / 4;
    const bool beside = Planes > 1 && add;
    if (beside) out = apart, out_bytes = 128;
    float* low = out + 4 * out_bytes;  // sixteen rows on
    if (add && !beside) {
      _tile_loadd(0, out, out_bytes);
      _tile_loadd(1, out + 16, out_bytes);
      _tile_loadd(2, low, out_bytes);
      _tile_loadd(3, low + 16, out_bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t k = 0; k < steps_; ++k, a += kStep, b += kStep) {
      // the smallest products first
      for (int p = Planes - 1; p >= 0; --p) {
        _tile_loadd(4, a + p * kTile, 64);
        _tile_loadd(5, a + kSteps * kStep + p * kTile, 64);
        for (int o = Planes - 1 - p; o >= 0; --o) {
          _tile_loadd(6, b + o * kTile, 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(2, 5, 6);
          _tile_loadd(7, b + kSteps * kStep + o * kTile, 64);
          _tile_dpbf16ps(1, 4, 7);
          _tile_dpbf16ps(3, 5, 7);
        }
      }
    }
    _tile_stored(0, out, out_bytes);
    _tile_stored(1, out + 16, out_bytes);
    _tile_stored(2, low, out_bytes);
    _tile_stored(3, low + 16, out_bytes);
    if (!beside) return;
    for (int64_t r = 0; r < 32; ++r) {
      for (int64_t c = 0; c < 32; c += 16) {
        float* to = sums + r * sums_row + c;
        store(to, load(to) + load(apart + r * 32 + c));
      }
    }
  }

  // Sixteen rows of 32 channels, of which `count` and `channels` are there.
  static void tile(const T* rows, int64_t stride, int64_t count, int64_t channels, char* to) {
    for (int64_t r = 0; r < 16; ++r, to += 64) {
      if (r >= count) {
        for (int p = 0; p < Planes; ++p) _mm512_store_si512(to + p * kTile, _mm512_setzero_si512());
      } else if constexpr (Planes == 1) {
        const __mmask32 inside = channels >= 32 ? ~0u : (1u << channels) - 1;
        _mm512_store_si512(to, _mm512_maskz_loadu_epi16(inside, rows + r * stride));
      } else {
        for (int64_t half = 0; half < 2; ++half) {
          const int64_t here = channels - 16 * half;
          const float* from = rows + r * stride + 16 * half;
          Lanes x = here >= 16 ? load(from) : here <= 0 ? splat(0.0f) : load(from, here);
          for (int p = 0; p < Planes; ++p) {
            const __m256i narrow = narrow_bf16(x.v);
            _mm256_store_si256(reinterpret_cast<__m256i*>(to + p * kTile + 32 * half), narrow);
            x = x - Lanes{widen_bf16(narrow)};
          }
        }
      }
    }
  }

  char* left_;   // [block / 16][slice / 32][Planes] tiles of rows
  char* right_;  // the same, each tile turned
  int64_t steps_ = 0;
};

}  // namespace
}  // namespace longreel
