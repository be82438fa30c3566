// Matrix products of the absorbed form on AMX tiles.
//
// A number enters as the sum of Planes bf16 numbers: one for bf16, three for fp32, whose 24 bits they hold. Of the nine products of
// two such sums the six that reach 2^-24 are added up, in fp32.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "common/dots_amx.h"
#include "common/scratch.h"
#include "common/simd.h"
#include "common/transpose.h"

namespace longreel {
namespace {

template <int Planes>
struct TileProducts {
  using Element = std::conditional_t<Planes == 1, bf16, float>;
  static constexpr int64_t multiple = 32;
  static constexpr int64_t rows_multiple = 32;
  static constexpr int64_t block_keys = 320;
  static constexpr int64_t kTile = 1024;  // bytes of a tile

  // Weights are packed as they are given.
  static constexpr bool packs_given = true;

  // What rounding to one bf16 number takes off a right side can be had as panels of its own.
  static constexpr bool rounds = Planes == 1;

  using Session = TileSession;

  // [m, k], tile (i, j) `m_step` i + `k_step` j bytes from the first
  struct Left {
    char* data = nullptr;
    int64_t m_step = 0, k_step = 0, stride = 0, plane = 0;
  };
  // [n / 16][k / 32] tiles of pairs along the sum
  struct Right {
    char* data = nullptr;
    int64_t k32 = 0, plane = 0;
  };
  using Panels = Right;
  using Rows = Right;

  static Left take_left(int64_t m, int64_t k, Arena& arena) {
    const int64_t k32 = ceil_div(k, 32), plane = round_up(m, 32) / 16 * k32 * kTile;
    return {arena.take<char>(Planes * plane), k32 * kTile, kTile, 64, plane};
  }
  static Right take_right(int64_t k, int64_t n, Arena& arena) {
    const int64_t k32 = ceil_div(k, 32), plane = ceil_div(n, 16) * k32 * kTile;
    return {arena.take<char>(Planes * plane), k32, plane};
  }
  static Panels take_panels(int64_t n, int64_t k, Arena& arena) { return take_right(k, n, arena); }
  static Rows take_rows(int64_t k, int64_t n, Arena& arena) { return take_right(k, n, arena); }

  // a_ik at a[i row + k step]: one of the two is 1. Padded with zeros to multiples of 32. lost: what rounding to bf16 takes off.
  static void pack(const float* a, int64_t row, int64_t step, int64_t m, int64_t k, Left& left, bool lost = false) {
    left.k_step = kTile;
    left.stride = 64;
    left.m_step = ceil_div(k, 32) * kTile;
    for (int64_t i = 0; i < round_up(m, 32); i += 16) {
      for (int64_t j = 0; j < k; j += 32) {
        char* to = left.data + i / 16 * left.m_step + j / 32 * kTile;
        const int64_t rows = std::clamp<int64_t>(m - i, 0, 16), terms = std::min<int64_t>(k - j, 32);
        if (step == 1) {
          for (int64_t r = 0; r < 16; ++r)
            store_row(r < rows ? a + (i + r) * row + j : nullptr, terms, to + r * 64, left.plane, lost);
        } else {
          pack_columns(a + i + j * step, step, rows, terms, to, left.plane, lost);
        }
      }
    }
  }

  // A block of keys whose rows are padded: bf16 in place, fp32 as planes.
  static void pack_keys(const Element* rows, int64_t stride, int64_t m, int64_t k, Left& left) {
    if constexpr (Planes == 1) {
      left.data = const_cast<char*>(reinterpret_cast<const char*>(rows));
      left.m_step = 32 * stride;
      left.k_step = 64;
      left.stride = 2 * stride;
    } else {
      pack(rows, stride, 1, m, k, left);
    }
  }

  // rows [n, k] -> tiles of their transpose; lost: of what their rounding to bf16 takes off
  static void pack_panels(const float* rows, int64_t stride, int64_t n, int64_t k, Panels& panels, bool lost = false) {
    panels.k32 = ceil_div(k, 32);
    alignas(64) char staged[Planes][kTile];
    for (int64_t i = 0; i < n; i += 16) {
      for (int64_t j = 0; j < k; j += 32) {
        for (int64_t r = 0; r < 16; ++r) {
          const float* from = i + r < n ? rows + (i + r) * stride + j : nullptr;
          store_row(from, std::min<int64_t>(k - j, 32), staged[0] + r * 64, kTile, lost);
        }
        char* to = panels.data + (i / 16 * panels.k32 + j / 32) * kTile;
        for (int p = 0; p < Planes; ++p) transpose_block(staged[p], 64, to + p * panels.plane, 64);
      }
    }
  }

  static void pack_panels(const bf16* rows, int64_t stride, int64_t n, int64_t k, Panels& panels) {
    panels.k32 = ceil_div(k, 32);
    alignas(64) char staged[kTile];
    for (int64_t i = 0; i < n; i += 16) {
      for (int64_t j = 0; j < k; j += 32) {
        char* to = panels.data + (i / 16 * panels.k32 + j / 32) * kTile;
        const bf16* from = rows + i * stride + j;
        if (i + 16 <= n && j + 32 <= k) {
          transpose_block(reinterpret_cast<const char*>(from), stride * 2, to, 64);
          continue;
        }
        const auto inside = k - j >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << (k - j)) - 1);
        for (int64_t r = 0; r < 16; ++r) {
          _mm512_store_si512(staged + r * 64, i + r < n ? _mm512_maskz_loadu_epi16(inside, from + r * stride) : __m512i{});
        }
        transpose_block(staged, 64, to, 64);
      }
    }
  }

  // rows [k, n] -> tiles of pairs of rows; lost: as above
  // Row by row, as they stand in memory, two at a time.
  static void pack_rows(const bf16* rows, int64_t stride, int64_t k, int64_t n, Rows& right) {
    right.k32 = ceil_div(k, 32);
    alignas(64) uint16_t order[64];
    for (uint16_t i = 0; i < 64; ++i) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    const __m512i first = _mm512_load_si512(order), second = _mm512_load_si512(order + 32);
    for (int64_t i = 0; i < right.k32 * 32; i += 2) {
      const bf16 *even = rows + i * stride, *odd = even + stride;
      char* to = right.data + i / 32 * kTile + i % 32 * 32;
      for (int64_t c = 0; c < n; c += 32, to += 2 * right.k32 * kTile) {
        const __mmask32 inside = n - c >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << (n - c)) - 1);
        const __m512i a = i < k ? _mm512_maskz_loadu_epi16(inside, even + c) : __m512i{};
        const __m512i b = i + 1 < k ? _mm512_maskz_loadu_epi16(inside, odd + c) : __m512i{};
        _mm512_store_si512(to, _mm512_permutex2var_epi16(a, first, b));
        if (n - c > 16) _mm512_store_si512(to + right.k32 * kTile, _mm512_permutex2var_epi16(a, second, b));
      }
    }
  }
  template <class... Lost>
  static void pack_rows(const float* rows, int64_t stride, int64_t k, int64_t n, Rows& right, Lost... lost) {
    right.k32 = ceil_div(k, 32);
    for (int64_t c = 0; c < n; c += 16) {
      const __mmask16 inside = n - c >= 16 ? __mmask16(0xffff) : first_lanes(n - c);
      for (int64_t i = 0; i < right.k32 * 32; i += 2) {
        char* to = right.data + (c / 16 * right.k32 + i / 32) * kTile + i % 32 * 32;
        pair(i < k ? rows + i * stride + c : nullptr, i + 1 < k ? rows + (i + 1) * stride + c : nullptr, inside, to,
             right.plane, lost...);
      }
    }
  }

  // out [m, n] = or += left [m, k] panels^T; m is padded to a multiple of 32 in `out` too
  static void dots(const Left& left, int64_t m, const Panels& panels, int64_t n, float* out, int64_t out_row,
                   bool add = false) {
    multiply(left, m, panels, n, out, out_row, add);
  }

  // out [m, n] = or += left [m, k] rows
  static void sums(const Left& left, int64_t m, const Rows& rows, int64_t n, float* out, int64_t out_row, bool add) {
    multiply(left, m, rows, n, out, out_row, add);
  }

  // Steps first .. last - 1 of out [m, n] = or += left right, where the left side may have planes of its own.
  template <int LeftPlanes>
  static void part(const Left& left, int64_t m, const Right& right, int64_t n, int64_t first, int64_t last, float* out,
                   int64_t out_row, bool add) {
    writes_before_tiles();
    const int64_t tiles = ceil_div(n, 16);
    for (int64_t j = 0; j < tiles; j += 2) {
      for (int64_t i = 0; i < m; i += 32) {
        float* to = out + i * out_row + j * 16;
        if (j + 1 < tiles) {
          block<LeftPlanes, true>(left, i / 16, right, j, first, last, to, out_row, add);
        } else {
          block<LeftPlanes, false>(left, i / 16, right, j, first, last, to, out_row, add);
        }
      }
    }
  }

  // Up to 32 numbers, or none, as a row of a tile.
  static void store_row(const float* from, int64_t count, char* to, int64_t plane, bool lost = false) {
    for (int64_t half = 0; half < 2; ++half) {
      const __m512 x = from == nullptr ? _mm512_setzero_ps() : some(from + 16 * half, count - 16 * half);
      __m512i planes[Planes];
      split(taken(x, lost), planes);
      for (int p = 0; p < Planes; ++p) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + p * plane + 32 * half), _mm512_cvtepi32_epi16(planes[p]));
      }
    }
  }

 private:
  // Steps of 32 whose right tiles, for 32 columns, stay in the nearest cache while all rows pass.
  static constexpr int64_t kSteps = Planes == 1 ? 12 : 6;

  static void multiply(const Left& left, int64_t m, const Right& right, int64_t n, float* out, int64_t out_row, bool add) {
    for (int64_t first = 0; first < right.k32; first += kSteps) {
      part<Planes>(left, m, right, n, first, std::min(first + kSteps, right.k32), out, out_row, add || first > 0);
    }
  }

  // 32 x 32 outputs, or 32 x 16
  template <int LeftPlanes, bool Two>
  static void block(const Left& left, int64_t i, const Right& right, int64_t j, int64_t first, int64_t last, float* out,
                    int64_t out_row, bool add) {
    if (add) {
      _tile_loadd(0, out, out_row * 4);
      _tile_loadd(2, out + 16 * out_row, out_row * 4);
      if constexpr (Two) {
        _tile_loadd(1, out + 16, out_row * 4);
        _tile_loadd(3, out + 16 * out_row + 16, out_row * 4);
      }
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    constexpr int most = std::max(LeftPlanes, Planes) - 1;
    const char* a0 = left.data + i * left.m_step;
    const char* a1 = a0 + left.m_step;
    const char* b0 = right.data + j * right.k32 * kTile;
    const char* b1 = b0 + right.k32 * kTile;
    for (int64_t k = first; k < last; ++k) {
      // the smallest products first
      for (int p = LeftPlanes - 1; p >= 0; --p) {
        _tile_loadd(4, a0 + p * left.plane + k * left.k_step, left.stride);
        _tile_loadd(5, a1 + p * left.plane + k * left.k_step, left.stride);
        for (int o = std::min(most - p, Planes - 1); o >= 0; --o) {
          // the same tiles for both planes of a left side
          if (Planes > 1 || p == LeftPlanes - 1) _tile_loadd(6, b0 + o * right.plane + k * kTile, 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(2, 5, 6);
          if constexpr (Two) {
            if (Planes > 1 || p == LeftPlanes - 1) _tile_loadd(7, b1 + o * right.plane + k * kTile, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
          }
        }
      }
    }
    _tile_stored(0, out, out_row * 4);
    _tile_stored(2, out + 16 * out_row, out_row * 4);
    if constexpr (Two) {
      _tile_stored(1, out + 16, out_row * 4);
      _tile_stored(3, out + 16 * out_row + 16, out_row * 4);
    }
  }

  // Sixteen numbers as Planes vectors of bf16, widened to 32 bits.
  static void split(__m512 x, __m512i (&planes)[Planes]) {
    for (int p = 0; p < Planes; ++p) {
      planes[p] = _mm512_cvtepu16_epi32(narrow_bf16(x));
      if (p + 1 < Planes) x = _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(planes[p], 16)));
    }
  }

  static __m512 taken(__m512 x, bool lost) { return lost ? _mm512_sub_ps(x, widen_bf16(narrow_bf16(x))) : x; }

  static __m512 some(const float* from, int64_t count) {
    return count >= 16  ? _mm512_loadu_ps(from)
           : count <= 0 ? _mm512_setzero_ps()
                        : _mm512_maskz_loadu_ps(first_lanes(count), from);
  }

  // A tile of the transpose of a [terms, rows]
  static void pack_columns(const float* a, int64_t step, int64_t rows, int64_t terms, char* to, int64_t plane, bool lost) {
    alignas(64) char staged[Planes][kTile];
    for (int64_t k = 0; k < 32; k += 2) {
      __m512i even[Planes], odd[Planes];
      split(k < terms ? taken(some(a + k * step, rows), lost) : _mm512_setzero_ps(), even);
      split(k + 1 < terms ? taken(some(a + (k + 1) * step, rows), lost) : _mm512_setzero_ps(), odd);
      for (int p = 0; p < Planes; ++p) {
        _mm512_store_si512(staged[p] + k * 32, _mm512_or_si512(even[p], _mm512_slli_epi32(odd[p], 16)));
      }
    }
    for (int p = 0; p < Planes; ++p) transpose_block(staged[p], 64, to + p * plane, 64);
  }

  static void pair(const float* even, const float* odd, __mmask16 inside, char* to, int64_t plane, bool lost = false) {
    __m512i low[Planes], high[Planes];
    split(even == nullptr ? _mm512_setzero_ps() : taken(_mm512_maskz_loadu_ps(inside, even), lost), low);
    split(odd == nullptr ? _mm512_setzero_ps() : taken(_mm512_maskz_loadu_ps(inside, odd), lost), high);
    for (int p = 0; p < Planes; ++p) {
      _mm512_store_si512(to + p * plane, _mm512_or_si512(low[p], _mm512_slli_epi32(high[p], 16)));
    }
  }
};

}  // namespace
}  // namespace longreel
