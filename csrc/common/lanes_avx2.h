// Lanes: sixteen floats in two AVX2 registers. Compiled per instruction set, hence the internal linkage.
#pragma once

#include <immintrin.h>

#include "common/numbers.h"

namespace longreel {
namespace {

struct Lanes {
  __m256 lo, hi;
};

// Register tiles that fill 16 registers of 256 bits: see dots.h and combine.h.
struct Tiles {
  static constexpr int dot_rows = 6, dot_panels = 1;
  static constexpr int sums = 6, sum_rows = 4, sum_lanes = 1, pair_lanes = 2, single_lanes = 4;
  static constexpr int product_rows = 6, product_lanes = 1;
  static constexpr int strip_rows = 6, strip_panels = 1;
  static constexpr int few_rows = 0;
};

inline Lanes held(Lanes x) { return x; }
inline Lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
// A NaN in `b` is kept.
inline Lanes max(Lanes a, Lanes b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Lanes min(Lanes a, Lanes b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Lanes round(Lanes a) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, nearest), _mm256_round_ps(a.hi, nearest)};
}
inline float sum(Lanes a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

inline float max_of(Lanes a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline bool any_above(Lanes a, float bound) {
  const __m256 b = _mm256_set1_ps(bound);
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(a.lo, b, _CMP_GT_OQ), _mm256_cmp_ps(a.hi, b, _CMP_GT_OQ))) != 0;
}

inline __m256 power_of_two(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}

// x 2^n for whole n in [-126, 127]
constexpr bool kScalesAny = false;
inline Lanes scale_by_power(Lanes x, Lanes n) {
  return {_mm256_mul_ps(x.lo, power_of_two(n.lo)), _mm256_mul_ps(x.hi, power_of_two(n.hi))};
}

// x where a >= bound (or a is NaN), else 0
inline Lanes keep_from(float bound, Lanes a, Lanes x) {
  const __m256 b = _mm256_set1_ps(bound);
  return {_mm256_and_ps(_mm256_cmp_ps(a.lo, b, _CMP_NLT_UQ), x.lo), _mm256_and_ps(_mm256_cmp_ps(a.hi, b, _CMP_NLT_UQ), x.hi)};
}

inline __m256 place(float first) { return _mm256_add_ps(_mm256_set1_ps(first), _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7)); }
inline __m256 between(__m256 low, __m256 at, __m256 high) {
  return _mm256_and_ps(_mm256_cmp_ps(low, at, _CMP_LE_OQ), _mm256_cmp_ps(at, high, _CMP_LT_OQ));
}

// x in the lanes begin .. end - 1, `other` in the others
inline Lanes within(int64_t begin, int64_t end, Lanes x, float other) {
  const __m256 low = _mm256_set1_ps(static_cast<float>(begin)), high = _mm256_set1_ps(static_cast<float>(end));
  const __m256 rest = _mm256_set1_ps(other);
  return {_mm256_blendv_ps(rest, x.lo, between(low, place(0), high)),
          _mm256_blendv_ps(rest, x.hi, between(low, place(8), high))};
}

// x where low <= at < high, else 0
inline Lanes keep_between(Lanes low, float at, Lanes high, Lanes x) {
  const __m256 key = _mm256_set1_ps(at);
  return {_mm256_and_ps(between(low.lo, key, high.lo), x.lo), _mm256_and_ps(between(low.hi, key, high.hi), x.hi)};
}

inline __m256 widen_bf16(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }

// Round to nearest even; a NaN keeps its upper half, made quiet.
inline __m128i narrow_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
}

inline __m128i load_eight(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline void store_eight(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }

inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Lanes load(const bf16* p) { return {widen_bf16(load_eight(p)), widen_bf16(load_eight(p + 8))}; }
inline Lanes load(const f16* p) { return {_mm256_cvtph_ps(load_eight(p)), _mm256_cvtph_ps(load_eight(p + 8))}; }

inline void store(float* p, Lanes x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
inline void store(bf16* p, Lanes x) {
  store_eight(p, narrow_bf16(x.lo));
  store_eight(p + 8, narrow_bf16(x.hi));
}
inline void store(f16* p, Lanes x) {
  store_eight(p, _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT));
  store_eight(p + 8, _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace
}  // namespace longreel
