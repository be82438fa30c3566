// One axis of a pooling: which tokens a cell is made of, by which weights, and the reverse.
#pragma once

#include <algorithm>
#include <cstdint>

#include "adaptive_pool/pool_window.h"
#include "common/numbers.h"

namespace longreel {

// `size` tokens to `out` cells: averages of adaptive pooling, or linear interpolation between two tokens.
struct PoolAxis {
  int64_t size, out;
  bool linear;

  // Cell i lies at (i + 1/2) size / out - 1/2, in units of 1 / (2 out); at token 0 where that is below it.
  LONGREEL_INLINE int64_t place(int64_t i) const { return std::max<int64_t>((2 * i + 1) * size - out, 0); }

  // How far it is past its first token; 0 at the last.
  LONGREEL_INLINE float share(int64_t i) const {
    const int64_t at = place(i), low = at / (2 * out);
    return low + 1 < size ? static_cast<float>(at - low * 2 * out) / static_cast<float>(2 * out) : 0.0f;
  }

  LONGREEL_INLINE Interval tokens_of_cell(int64_t i) const {
    if (!linear) return PoolWindow::tokens_of_cell(i, size, out);
    const int64_t low = place(i) / (2 * out);
    return {low, low + (share(i) > 0.0f ? 2 : 1)};
  }

  LONGREEL_INLINE Interval cells_of_token(int64_t t) const {
    if (!linear) return PoolWindow::cells_of_token(t, size, out);
    // From place t - 1 on, and before t + 1.
    const int64_t begin = ceil_div(std::max<int64_t>(out * (2 * t - 1) - size, 0), 2 * size);
    return {begin, std::min(ceil_div(out * (2 * t + 3) - size, 2 * size), out)};
  }

  // At most this many cells share a token.
  LONGREEL_INLINE int64_t most_cells() const { return std::min((linear ? 2 : 1) * (ceil_div(out, size) + 1), out); }

  // What a token of the cell counts before the cell is divided by `divisor`.
  LONGREEL_INLINE float coefficient(int64_t i, int64_t t) const {
    if (!linear) return 1.0f;
    const float s = share(i);
    return t == place(i) / (2 * out) ? 1.0f - s : s;
  }

  LONGREEL_INLINE int64_t divisor(int64_t i) const { return linear ? 1 : tokens_of_cell(i).size(); }
};

}  // namespace longreel
