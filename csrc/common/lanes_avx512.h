// Lanes: sixteen floats in one AVX-512 register. Compiled per instruction set, hence the internal linkage.
#pragma once

#include <immintrin.h>

#include "common/numbers.h"

namespace longreel {
namespace {

struct Lanes {
  __m512 v;
};

// Register tiles that fill 32 registers of 512 bits: see dots.h and combine.h.
struct Tiles {
  static constexpr int dot_rows = 12, dot_panels = 2;
  static constexpr int sums = 24, sum_rows = 8, sum_lanes = 3, pair_lanes = 8, single_lanes = 8;
  static constexpr int product_rows = 8, product_lanes = 3;
  static constexpr int strip_rows = 6, strip_panels = 4;
  static constexpr int few_rows = 16;
};

// x in a register, where it would else be read again for each of its uses
inline Lanes held(Lanes x) {
  asm("" : "+v"(x.v));
  return x;
}
inline Lanes splat(float x) { return {_mm512_set1_ps(x)}; }
inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// A NaN in `b` is kept.
inline Lanes max(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Lanes min(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Lanes round(Lanes a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline float sum(Lanes a) { return _mm512_reduce_add_ps(a.v); }
// The sums of sixteen registers, each in a lane: lanes that belong to two registers change places until each is alone.
[[gnu::always_inline]] inline Lanes sums(const Lanes (&a)[16]) {
  __m512 pairs[8], quads[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m512 x = a[2 * i].v, y = a[2 * i + 1].v;
    pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d x = _mm512_castps_pd(pairs[2 * i]), y = _mm512_castps_pd(pairs[2 * i + 1]);
    quads[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  const auto halves = [](__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
  };
  return {halves(halves(quads[0], quads[1]), halves(quads[2], quads[3]))};
}
inline float max_of(Lanes a) { return _mm512_reduce_max_ps(a.v); }
inline bool any_above(Lanes a, float bound) { return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(bound), _CMP_GT_OQ) != 0; }

// x 2^n for whole n in [-126, 127]; anything, NaN too, for other n
constexpr bool kScalesAny = true;
inline Lanes scale_by_power(Lanes x, Lanes n) { return {_mm512_scalef_ps(x.v, n.v)}; }

// x where a >= bound (or a is NaN), else 0
inline Lanes keep_from(float bound, Lanes a, Lanes x) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, _mm512_set1_ps(bound), _CMP_NLT_UQ), x.v)};
}

// x in the lanes begin .. end - 1, `other` in the others
inline Lanes within(int64_t begin, int64_t end, Lanes x, float other) {
  return {_mm512_mask_mov_ps(_mm512_set1_ps(other), static_cast<__mmask16>((1u << end) - (1u << begin)), x.v)};
}

// x where low <= at < high, else 0
inline Lanes keep_between(Lanes low, float at, Lanes high, Lanes x) {
  const __m512 key = _mm512_set1_ps(at);
  const __mmask16 above = _mm512_cmp_ps_mask(low.v, key, _CMP_LE_OQ);
  return {_mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask(above, key, high.v, _CMP_LT_OQ), x.v)};
}

inline __m512 widen_bf16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

// Round to nearest even; a NaN keeps its upper half, made quiet.
inline __m256i narrow_bf16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i upper = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(upper, 16));
}

inline Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Lanes load(const bf16* p) { return {widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline Lanes load(const f16* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }

inline void store(float* p, Lanes x) { _mm512_storeu_ps(p, x.v); }
inline void store(bf16* p, Lanes x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(x.v)); }
inline void store(f16* p, Lanes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}

inline __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

// The first `count` < 16 lanes only; the others read as 0.
inline Lanes load(const float* p, int64_t count) { return {_mm512_maskz_loadu_ps(first_lanes(count), p)}; }
inline Lanes load(const bf16* p, int64_t count) { return {widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(count), p))}; }
inline Lanes load(const f16* p, int64_t count) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(count), p))}; }

inline void store(float* p, Lanes x, int64_t count) { _mm512_mask_storeu_ps(p, first_lanes(count), x.v); }
inline void store(bf16* p, Lanes x, int64_t count) { _mm256_mask_storeu_epi16(p, first_lanes(count), narrow_bf16(x.v)); }
inline void store(f16* p, Lanes x, int64_t count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace
}  // namespace longreel
