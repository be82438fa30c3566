// Pooling backwards: a token's gradient is the weighted sum of its cells' gradients.
#pragma once

#include <algorithm>

#include "adaptive_pool/pool_axis.h"
#include "common/rows.h"
#include "common/scratch.h"

namespace longreel {
namespace {

// Which cells share a token of a frame, tabulated along both axes.
class PoolShares {
 public:
  // Room for axes of these sizes.
  PoolShares(int64_t height, int64_t width, int64_t out_height, int64_t out_width, Arena& arena)
      : down_{arena.take<Interval>(height), arena.take<int64_t>(out_height)},
        across_{arena.take<Interval>(width), arena.take<int64_t>(out_width)} {}

  // To be called before terms().
  void tabulate(const PoolAxis& down, const PoolAxis& across, int64_t pitch) {
    pitch_ = pitch;
    down_.set(down);
    across_.set(across);
  }

  // At most this many cells share one token.
  static int64_t most(const PoolAxis& down, const PoolAxis& across) {
    const bool any = down.size > 0 && across.size > 0 && down.out > 0 && across.out > 0;
    return any ? down.most_cells() * across.most_cells() : 0;
  }

  // The terms of token n after the prefix; grad [cells, C], each to be divided by `divisor` more. Returns how many.
  template <class T>
  int64_t terms(int64_t n, const T* grad, int64_t channels, int64_t divisor, Term<T>* terms) const {
    const PoolAxis &down = down_.axis, &across = across_.axis;
    if (down.out == 0 || across.out == 0) return 0;
    const int64_t y = n / pitch_, x = n % pitch_;
    if (y >= down.size || x >= across.size) return 0;
    int64_t count = 0;
    for (int64_t i = down_.cells[y].begin; i < down_.cells[y].end; ++i) {
      const float row = down.coefficient(i, y);
      for (int64_t j = across_.cells[x].begin; j < across_.cells[x].end; ++j) {
        const float share =
            row * across.coefficient(j, x) / static_cast<float>(down_.divisors[i] * across_.divisors[j] * divisor);
        terms[count++] = {share, grad + (i * across.out + j) * channels};
      }
    }
    return count;
  }

 private:
  struct Table {
    Interval* cells;    // of each token
    int64_t* divisors;  // of each cell
    PoolAxis axis = {-1, -1, false};

    void set(const PoolAxis& wanted) {
      if (wanted.size == axis.size && wanted.out == axis.out && wanted.linear == axis.linear) return;
      axis = wanted;
      for (int64_t t = 0; t < axis.size && axis.out > 0; ++t) cells[t] = axis.cells_of_token(t);
      for (int64_t i = 0; i < axis.out; ++i) divisors[i] = axis.divisor(i);
    }
  };

  Table down_, across_;
  int64_t pitch_ = 1;
};

}  // namespace
}  // namespace longreel
