// Partial loads and stores for instruction sets without masks: through a full block on the stack.
#pragma once

#include "common/simd.h"

namespace longreel {
namespace {

// The first `count` < 16 lanes only; the others read as 0.
template <class T>
inline Lanes load(const T* p, int64_t count) {
  T block[16] = {};
  std::memcpy(block, p, static_cast<size_t>(count) * sizeof(T));
  return load(block);
}

template <class T>
inline void store(T* p, Lanes x, int64_t count) {
  T block[16];
  store(block, x);
  std::memcpy(p, block, static_cast<size_t>(count) * sizeof(T));
}

// The sums of sixteen registers, each in a lane.
inline Lanes sums(const Lanes (&a)[16]) {
  float block[16];
  for (int i = 0; i < 16; ++i) block[i] = sum(a[i]);
  return load(block);
}

}  // namespace
}  // namespace longreel
