// Scores of bf16 rows by pairs: one AVX512_BF16 instruction multiplies and adds two channels of sixteen queries.
#pragma once

#include "common/dots.h"
#include "common/simd.h"

namespace longreel {
namespace {

struct StepBf16Pairs {
  using Row = bf16;
  using Packed = uint32_t;  // channels 2k (low half) and 2k + 1 of one query
  static constexpr int64_t width = 2;

  static int64_t chain(int64_t steps) { return steps; }

  static __m512bh queries(const uint32_t* packed) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(packed)); }

  // x and the element behind it, in every lane
  static __m512bh pair_of(const bf16* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }

  static Lanes fold(const bf16* x, __m512bh q, Lanes sum) { return {_mm512_dpbf16_ps(sum.v, pair_of(x), q)}; }
};

using DotsBf16 = VectorDots<StepBf16Pairs>;

}  // namespace
}  // namespace longreel
