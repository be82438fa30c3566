// The one allocator of kernel scratch memory on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/inline.h"

namespace longreel {

// NaN bytes over fresh memory where LONGREEL_POISON=1.
void poison(void* data, int64_t bytes);

// A 64-byte aligned block, freed with the object, poisoned first.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  LONGREEL_INLINE std::byte* data() const { return data_; }

 private:
  std::byte* data_;
};

// Hands out aligned arrays from a block, one after another. Started at null it only counts, which sizes the block.
class Arena {
 public:
  LONGREEL_INLINE explicit Arena(std::byte* base) : base_(base) {}

  template <class T>
  LONGREEL_INLINE T* take(int64_t count) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return reinterpret_cast<T*>(at);
  }

  LONGREEL_INLINE int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

}  // namespace longreel
