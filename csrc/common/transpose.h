// Sixteen rows of 32-bit units (one float, or two narrower numbers) to columns. Compiled per instruction set, hence the internal linkage.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace longreel {
namespace {

#if defined(__AVX512F__)
// A 16 x 16 block in registers: pairs, quads, then whole 128-bit lanes change places.
inline void transpose_block(const char* from, int64_t row, char* to, int64_t to_row) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * row);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  // a[4 g + k]: units k, k + 4, k + 8, k + 12 of rows 4 g .. 4 g + 3
  for (int g = 0; g < 16; g += 4) {
    a[g] = _mm512_unpacklo_epi64(b[g], b[g + 2]);
    a[g + 1] = _mm512_unpackhi_epi64(b[g], b[g + 2]);
    a[g + 2] = _mm512_unpacklo_epi64(b[g + 1], b[g + 3]);
    a[g + 3] = _mm512_unpackhi_epi64(b[g + 1], b[g + 3]);
  }
  for (int k = 0; k < 4; ++k) {
    const __m512i even_low = _mm512_shuffle_i32x4(a[k], a[k + 4], 0x88), odd_low = _mm512_shuffle_i32x4(a[k], a[k + 4], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(a[k + 8], a[k + 12], 0x88),
                  odd_high = _mm512_shuffle_i32x4(a[k + 8], a[k + 12], 0xdd);
    _mm512_storeu_si512(to + k * to_row, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
    _mm512_storeu_si512(to + (k + 4) * to_row, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
    _mm512_storeu_si512(to + (k + 8) * to_row, _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
    _mm512_storeu_si512(to + (k + 12) * to_row, _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
  }
}
#endif

// [16, units], rows `row` bytes apart -> [units, 16], `to_row` bytes apart; what stands `ahead` bytes behind is fetched
// meanwhile, unless 0.
inline void transpose_sixteen(const void* rows, int64_t row, int64_t units, void* columns, [[maybe_unused]] int64_t ahead = 0,
                              int64_t to_row = 64) {
  const char* from = static_cast<const char*>(rows);
  char* to = static_cast<char*>(columns);
  int64_t k = 0;
#if defined(__AVX512F__)
  for (; k + 16 <= units; k += 16) {
    for (int i = 0; ahead != 0 && i < 16; ++i) __builtin_prefetch(from + k * 4 + i * row + ahead, 0, 2);
    transpose_block(from + k * 4, row, to + k * to_row, to_row);
  }
#endif
  for (; k < units; ++k) {
    for (int64_t j = 0; j < 16; ++j) std::memcpy(to + k * to_row + j * 4, from + j * row + k * 4, 4);
  }
}

}  // namespace
}  // namespace longreel
