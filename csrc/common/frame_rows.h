// The rows of one frame, read in place where their channels lie side by side, else through a copy.
#pragma once

#include "common/rows.h"
#include "common/scratch.h"

namespace longreel {
namespace {

// [count, C]
template <class T>
struct FrameRows {
  const T* data;
  int64_t stride;
  int64_t count;

  const T* operator[](int64_t n) const { return data + n * stride; }
};

template <class T>
class FrameReader {
 public:
  FrameReader(int64_t channels, int64_t channel_stride, int64_t longest, Arena& arena)
      : channels_(channels),
        channel_stride_(channel_stride),
        copy_(channel_stride == 1 ? nullptr : arena.take<T>(longest * channels)) {}

  FrameRows<T> read(const T* first, int64_t row_stride, int64_t count) const {
    if (channel_stride_ == 1) return {first, row_stride, count};
    for (int64_t n = 0; n < count; ++n) {
      copy_row(first + n * row_stride, channel_stride_, channels_, copy_ + n * channels_, channels_);
    }
    return {copy_, channels_, count};
  }

 private:
  int64_t channels_, channel_stride_;
  T* copy_;
};

}  // namespace
}  // namespace longreel
