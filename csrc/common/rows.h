// Single rows: copies that change type or stride, and rows written once from fp32 terms.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/simd.h"

namespace longreel {
namespace {

// f(c, count, whole) for each group of sixteen channels
template <class F>
inline void for_lanes(int64_t channels, F f) {
  int64_t c = 0;
  for (; c + 16 <= channels; c += 16) f(c, 16, std::true_type{});
  if (c < channels) f(c, channels - c, std::false_type{});
}

template <class T, class Whole>
inline Lanes load(const T* p, int64_t count, Whole) {
  if constexpr (Whole::value) {
    return load(p);
  } else {
    return load(p, count);
  }
}

template <class T, class Whole>
inline void store(T* p, Lanes x, int64_t count, Whole) {
  if constexpr (Whole::value) {
    store(p, x);
  } else {
    store(p, x, count);
  }
}

// to [padded] = from [channels], then zeros
template <class To, class From>
inline void copy_row(const From* from, int64_t stride, int64_t channels, To* to, int64_t padded) {
  if (stride != 1) {
    for (int64_t c = 0; c < channels; ++c) {
      if constexpr (std::is_same_v<To, From>) {
        to[c] = from[c * stride];
      } else {
        to[c] = from_float<To>(to_float(from[c * stride]));
      }
    }
  } else if constexpr (std::is_same_v<To, From>) {
    std::copy_n(from, channels, to);
  } else {
    for_lanes(channels,
              [&](int64_t c, int64_t count, auto whole) { store(to + c, load(from + c, count, whole), count, whole); });
  }
  std::fill(to + channels, to + padded, To{});
}

// One term of a row: weight * row.
template <class T>
struct Term {
  float weight;
  const T* row;
};

// out [channels] = base + sum of terms; base is fp32, padded to whole lanes, or null. Fixed: the number of terms, or -1.
template <int Fixed, class T>
inline void write_terms(const float* base, const Term<T>* terms, int64_t count, int64_t channels, T* out) {
  for_lanes(channels, [&](int64_t c, int64_t lanes, auto whole) {
    Lanes x = base == nullptr ? splat(0.0f) : load(base + c);
    for (int64_t t = 0; t < (Fixed < 0 ? count : Fixed); ++t) {
      x = fma(splat(terms[t].weight), load(terms[t].row + c, lanes, whole), x);
    }
    store(out + c, x, lanes, whole);
  });
}

template <class T>
inline void write_row(const float* base, const Term<T>* terms, int64_t count, int64_t channels, T* out) {
  switch (count) {
    case 1:
      return write_terms<1>(base, terms, count, channels, out);
    case 2:
      return write_terms<2>(base, terms, count, channels, out);
    default:
      return write_terms<-1>(base, terms, count, channels, out);
  }
}

// out [channels] = scale * base
template <class T>
inline void write_scaled(const float* base, float scale, int64_t channels, T* out) {
  for_lanes(channels,
            [&](int64_t c, int64_t lanes, auto whole) { store(out + c, splat(scale) * load(base + c), lanes, whole); });
}

}  // namespace
}  // namespace longreel
