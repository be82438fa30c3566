// Matrix products of the absorbed form by pairs of bf16 numbers: see products_amx.h for what each of them means.
//
// Where a product of pairs takes as long as one of fp32 (Zen): on a Sapphire Rapids it takes four.
#pragma once

#include <cstring>

#include "common/transpose.h"
#include "qformer_attention/register_tiles.h"

namespace longreel {
namespace {

// Two bf16 numbers a unit
struct UnitBf16Pair {
  static __m512bh right(const char* x) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(x)); }
  static __m512bh left(const char* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }
  static Lanes fold(__m512bh a, __m512bh x, Lanes sum) { return {_mm512_dpbf16_ps(sum.v, a, x)}; }
};

struct QFormerPairProducts {
  using Element = bf16;
  static constexpr int64_t multiple = 32, rows_multiple = 1, channels_in_place = 2, block_keys = 128;
  static constexpr bool rounds = true, packs_given = true;

  struct Session {
    Session() {}
  };

  struct Left : UnitRows {
    char* packed = nullptr;
  };
  using Panels = UnitGroups;
  using Rows = UnitGroups;

  static Left take_left(int64_t m, int64_t k, Arena& arena) {
    return {{}, arena.take<char>(round_up(m, 16) * round_up(k, 32) * sizeof(bf16))};
  }
  static Panels take_panels(int64_t n, int64_t k, Arena& arena) { return Products::take(ceil_div(k, 2), n, arena); }
  static Rows take_rows(int64_t k, int64_t n, Arena& arena) { return take_panels(n, k, arena); }

  // Rows as they stand: k is even, or each has a zero behind it.
  static void pack(const bf16* a, int64_t row, int64_t /*step*/, int64_t /*m*/, int64_t /*k*/, Left& left) {
    point(left, a, row * sizeof(bf16), Products::kUnit);
  }

  // lost: what rounding to bf16 takes off
  static void pack(const float* a, int64_t row, int64_t step, int64_t m, int64_t k, Left& left, bool lost = false) {
    char* to = left.packed;
    if (step == 1) {
      const int64_t padded = round_up(k, 32);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t c = 0; c < k; c += 32, to += 64) _mm512_storeu_si512(to, rounded(a + i * row + c, k - c, lost));
      }
      point(left, left.packed, padded * sizeof(bf16), Products::kUnit);
      return;
    }
    for (int64_t c = 0; c < k; c += 2) {
      for (int64_t i = 0; i < m; i += 16, to += 64) {
        const float* even = a + i + c * step;
        const __m512 odd = c + 1 < k ? some(even + step, m - i) : _mm512_setzero_ps();
        _mm512_storeu_si512(to, paired(taken(some(even, m - i), lost), taken(odd, lost)));
      }
    }
    point(left, left.packed, Products::kUnit, round_up(m, 16) * Products::kUnit);
  }

  template <class T>
  static void pack_panels(const T* rows, int64_t stride, int64_t n, int64_t k, Panels& panels, bool lost = false) {
    panels.k = ceil_div(k, 2);
    alignas(64) char staged[16 * 64];
    Products::for_groups(panels, n, [&](int64_t first, int64_t width, char* group) {
      for (int64_t i = first; i < first + width; i += 16) {
        for (int64_t c = 0; c < k; c += 32) {
          for (int64_t r = 0; r < 16; ++r) {
            const T* from = rows + (i + r) * stride + c;
            _mm512_store_si512(staged + r * 64, i + r < n ? rounded(from, k - c, lost) : _mm512_setzero_si512());
          }
          char* to = group + (c / 2 * width + i - first) * Products::kUnit;
          transpose_sixteen(staged, 64, std::min<int64_t>(16, panels.k - c / 2), to, 0, width * Products::kUnit);
        }
      }
    });
  }

  // rows [k, n]: two a unit, the last alone beside zeros
  template <class T>
  static void pack_rows(const T* rows, int64_t stride, int64_t k, int64_t n, Rows& right) {
    right.k = ceil_div(k, 2);
    Products::for_groups(right, n, [&](int64_t first, int64_t width, char* to) {
      for (int64_t i = 0; i < k; i += 2) {
        for (int64_t j = first; j < first + width; j += 16, to += 64) {
          const T* even = rows + i * stride + j;
          _mm512_storeu_si512(to, paired(some(even, n - j), i + 1 < k ? some(even + stride, n - j) : _mm512_setzero_ps()));
        }
      }
    });
  }

  static void dots(const Left& left, int64_t m, const Panels& panels, int64_t n, float* out, int64_t out_row,
                   bool add = false) {
    Products::multiply(left, m, panels, n, out, out_row, add, Products::kTerms);
  }

  static void sums(const Left& left, int64_t m, const Rows& rows, int64_t n, float* out, int64_t out_row, bool add) {
    Products::multiply(left, m, rows, n, out, out_row, add, Products::kTerms);
  }

 private:
  using Products = RegisterTiles<UnitBf16Pair>;

  static void point(Left& left, const void* data, int64_t row, int64_t step) {
    static_cast<UnitRows&>(left) = {static_cast<const char*>(data), row, step};
  }

  // Up to sixteen numbers, then zeros
  template <class T>
  static __m512 some(const T* x, int64_t count) {
    return (count >= 16 ? load(x) : load(x, count)).v;
  }

  static __m512 taken(__m512 x, bool lost) { return lost ? _mm512_sub_ps(x, widen_bf16(narrow_bf16(x))) : x; }

  // Up to 32 numbers, then zeros
  static __m512i rounded(const bf16* x, int64_t count, bool /*lost*/) {
    const auto inside = count >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << count) - 1);
    return _mm512_maskz_loadu_epi16(inside, x);
  }
  static __m512i rounded(const float* x, int64_t count, bool lost) {
    const __m512 high = count > 16 ? some(x + 16, count - 16) : _mm512_setzero_ps();
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(taken(high, lost), taken(some(x, count), lost)));
  }

  // Units of (even, odd)
  static __m512i paired(__m512 even, __m512 odd) {
    const __m512i low = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(even)));
    const __m512i high = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(odd)));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
};

}  // namespace
}  // namespace longreel
