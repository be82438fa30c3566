// Which patches a pooled cell averages: adaptive average pooling over a window of a grid of tokens.
#pragma once

#include <cstdint>

#include "common/inline.h"

namespace longreel {

struct Interval {
  int64_t begin, end;

  LONGREEL_INLINE int64_t size() const { return end - begin; }
};

// Token (y, x) of the window is patch row prefix + y * pitch + x.
struct PoolWindow {
  int64_t prefix, pitch, height, width, out_height, out_width;

  LONGREEL_INLINE int64_t cells() const { return out_height * out_width; }

  // Cell i of `out` along an axis of `size` tokens covers these.
  LONGREEL_INLINE static Interval tokens_of_cell(int64_t i, int64_t size, int64_t out) {
    return {i * size / out, ((i + 1) * size + out - 1) / out};
  }

  // Token t of `size` belongs to these of `out` cells.
  LONGREEL_INLINE static Interval cells_of_token(int64_t t, int64_t size, int64_t out) {
    return {t * out / size, ((t + 1) * out + size - 1) / size};
  }

  LONGREEL_INLINE Interval rows_of(int64_t cell) const { return tokens_of_cell(cell / out_width, height, out_height); }
  LONGREEL_INLINE Interval columns_of(int64_t cell) const { return tokens_of_cell(cell % out_width, width, out_width); }

  // No token belongs to two cells.
  LONGREEL_INLINE bool disjoint() const { return height % out_height == 0 && width % out_width == 0; }
};

}  // namespace longreel
