// Storage types of tensors, and their exact conversions to and from fp32.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/inline.h"

namespace longreel {

enum class Dtype { f32, bf16, f16 };

struct bf16 {
  uint16_t bits;
};

struct f16 {
  uint16_t bits;
};

LONGREEL_INLINE int64_t element_size(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

LONGREEL_INLINE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

LONGREEL_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

LONGREEL_INLINE float to_float(float x) { return x; }

LONGREEL_INLINE float to_float(bf16 x) { return float_of_bits(uint32_t{x.bits} << 16); }

LONGREEL_INLINE float to_float(f16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Exponents are rebased by a multiplication, which is exact and also normalises subnormals.
  const float value = float_of_bits(magnitude << 13) * float_of_bits(0x77800000u);  // 2^112
  return float_of_bits(bits_of_float(value) | sign);
}

template <class T>
T from_float(float x);

template <>
LONGREEL_INLINE float from_float<float>(float x) {
  return x;
}

template <>
LONGREEL_INLINE bf16 from_float<bf16>(float x) {
  const uint32_t bits = bits_of_float(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
LONGREEL_INLINE f16 from_float<f16>(float x) {
  const uint32_t bits = bits_of_float(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x47800000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the last place is 2^-24: adding 0.5 leaves exactly those bits in the sum, rounded to even.
    const uint32_t shifted = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    return {static_cast<uint16_t>(sign | shifted)};
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u;
  return {static_cast<uint16_t>(sign | rounded >> 13)};
}

LONGREEL_INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

LONGREEL_INLINE int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

}  // namespace longreel
