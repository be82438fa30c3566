// Powers of e and 2 of sixteen lanes, within 1.5 ulp on the normal range.
#pragma once

#include "common/simd.h"

namespace longreel {
namespace {

constexpr float kLog2E = 1.44269504f;

// e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2; results below 2^-126 are 0.
inline Lanes exp(Lanes x) {
  constexpr float smallest = -87.3365f, largest = 88.0f;
  constexpr float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  const Lanes clamped = min(splat(largest), max(splat(smallest), x));
  const Lanes n = round(clamped * splat(log2_e));
  const Lanes r = fma(n, splat(-ln2_low), fma(n, splat(-ln2_high), clamped));
  // Minimax fit of (e^r - 1 - r) / r^2, relative error of e^r 3e-9.
  Lanes p = splat(0x1.6a2434p-10f);
  p = fma(p, r, splat(0x1.1239e2p-7f));
  p = fma(p, r, splat(0x1.5558f2p-5f));
  p = fma(p, r, splat(0x1.555492p-3f));
  p = fma(p, r, splat(0x1.fffffcp-2f));
  const Lanes e = fma(p, r * r, r) + splat(1.0f);
  return keep_from(smallest, x, scale_by_power(e, n));
}

// 2^x for x up to 127, where it stays beyond (scores of hidden keys); results below 2^-126 are 0.
inline Lanes exp2(Lanes x) {
  constexpr float smallest = -126.0f, largest = 127.0f;
  const Lanes bounded = min(splat(largest), x);
  const Lanes in_range = kScalesAny ? bounded : max(splat(smallest), bounded);
  const Lanes n = round(in_range);
  const Lanes r = in_range - n;
  // Minimax fit of 2^r for |r| <= 1/2, relative error 3e-9.
  Lanes p = splat(0x1.417a9cp-13f);
  p = fma(p, r, splat(0x1.5f0948p-10f));
  p = fma(p, r, splat(0x1.3b2dd2p-7f));
  p = fma(p, r, splat(0x1.c6af7ap-5f));
  p = fma(p, r, splat(0x1.ebfbdcp-3f));
  p = fma(p, r, splat(0x1.62e430p-1f));
  p = fma(p, r, splat(1.0f));
  return keep_from(smallest, x, scale_by_power(p, n));
}

}  // namespace
}  // namespace longreel
