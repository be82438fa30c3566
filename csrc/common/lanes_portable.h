// Lanes: sixteen floats as four vectors of four, which every 64-bit target has. Internal linkage as in its siblings.
#pragma once

#include <cmath>

#include "common/numbers.h"

namespace longreel {
namespace {

using Four = float __attribute__((vector_size(16)));
using FourInts = int32_t __attribute__((vector_size(16)));

struct Lanes {
  Four v[4];
};

// Register tiles that fill 16 registers of 128 bits: see dots.h and combine.h.
struct Tiles {
  static constexpr int dot_rows = 2, dot_panels = 1;
  static constexpr int sums = 2, sum_rows = 2, sum_lanes = 1, pair_lanes = 1, single_lanes = 2;
  static constexpr int product_rows = 2, product_lanes = 1;
  static constexpr int strip_rows = 2, strip_panels = 1;
  static constexpr int few_rows = 0;
};

template <class F>
inline Lanes each(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}

inline Lanes held(Lanes x) { return x; }
inline Lanes splat(float x) {
  const Four four = {x, x, x, x};
  return {{four, four, four, four}};
}
inline Lanes operator+(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes operator-(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Lanes operator*(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// A NaN in `b` is kept.
inline Lanes max(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes min(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
// For |a| < 2^22: the sum with 1.5 * 2^23 has no fraction bits left.
inline Lanes round(Lanes a) {
  const Lanes big = splat(12582912.0f);
  return (a + big) - big;
}
inline float sum(Lanes a) {
  const Four four = (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

inline float max_of(Lanes a) {
  const Lanes b = each([&](int i) { return a.v[i] > a.v[i ^ 2] ? a.v[i] : a.v[i ^ 2]; });
  const Four four = b.v[0] > b.v[1] ? b.v[0] : b.v[1];
  const float low = four[0] > four[2] ? four[0] : four[2], high = four[1] > four[3] ? four[1] : four[3];
  return low > high ? low : high;
}
inline bool any_above(Lanes a, float bound) {
  const FourInts above = (a.v[0] > bound) | (a.v[1] > bound) | (a.v[2] > bound) | (a.v[3] > bound);
  return (above[0] | above[1] | above[2] | above[3]) != 0;
}

// x 2^n for whole n in [-126, 127]
constexpr bool kScalesAny = false;
inline Lanes scale_by_power(Lanes x, Lanes n) {
  return each([&](int i) { return x.v[i] * reinterpret_cast<Four>((__builtin_convertvector(n.v[i], FourInts) + 127) << 23); });
}

// x where a >= bound (or a is NaN), else 0
inline Lanes keep_from(float bound, Lanes a, Lanes x) {
  return each([&](int i) { return a.v[i] < bound ? Four{} : x.v[i]; });
}

// x in the lanes begin .. end - 1, `other` in the others
inline Lanes within(int64_t begin, int64_t end, Lanes x, float other) {
  float values[16];
  std::memcpy(values, &x, sizeof x);
  for (int64_t i = 0; i < 16; ++i) values[i] = begin <= i && i < end ? values[i] : other;
  std::memcpy(&x, values, sizeof x);
  return x;
}

// x where low <= at < high, else 0
inline Lanes keep_between(Lanes low, float at, Lanes high, Lanes x) {
  return each([&](int i) { return (low.v[i] <= at) & (at < high.v[i]) ? x.v[i] : Four{}; });
}

inline Lanes load(const float* p) {
  Lanes x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, Lanes x) { std::memcpy(p, &x, sizeof x); }

template <class T>
inline Lanes load(const T* p) {
  float values[16];
  for (int i = 0; i < 16; ++i) values[i] = to_float(p[i]);
  return load(values);
}
template <class T>
inline void store(T* p, Lanes x) {
  float values[16];
  store(values, x);
  for (int i = 0; i < 16; ++i) p[i] = from_float<T>(values[i]);
}

}  // namespace
}  // namespace longreel
