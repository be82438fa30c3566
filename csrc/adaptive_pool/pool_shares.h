// Pooling backwards: a token's gradient is the sum of its cells' gradients, each divided by the cell's size.
#pragma once

#include <algorithm>

#include "adaptive_pool/pool_window.h"
#include "common/rows.h"
#include "common/scratch.h"

namespace longreel {
namespace {

// Which cells share a token, tabulated along both axes.
class PoolShares {
 public:
  PoolShares(const PoolWindow& pool, Arena& arena)
      : pool_(pool),
        any_(pool.cells() > 0 && pool.height > 0 && pool.width > 0),
        down_(arena.take<Interval>(pool.height)),
        across_(arena.take<Interval>(pool.width)),
        heights_(arena.take<int64_t>(pool.out_height)),
        widths_(arena.take<int64_t>(pool.out_width)) {}

  // To be called before terms().
  void tabulate() {
    if (!any_) return;
    const auto axis = [](int64_t size, int64_t out, Interval* cells, int64_t* sizes) {
      for (int64_t t = 0; t < size; ++t) cells[t] = PoolWindow::cells_of_token(t, size, out);
      for (int64_t i = 0; i < out; ++i) sizes[i] = PoolWindow::tokens_of_cell(i, size, out).size();
    };
    axis(pool_.height, pool_.out_height, down_, heights_);
    axis(pool_.width, pool_.out_width, across_, widths_);
  }

  // At most this many cells share one token.
  int64_t most() const {
    if (!any_) return 0;
    const int64_t down = ceil_div(pool_.out_height, pool_.height) + 1, across = ceil_div(pool_.out_width, pool_.width) + 1;
    return std::min(down, pool_.out_height) * std::min(across, pool_.out_width);
  }

  // The terms of token n after the prefix; grad [cells, C]. Returns how many.
  template <class T>
  int64_t terms(int64_t n, const T* grad, int64_t channels, Term<T>* terms) const {
    if (!any_) return 0;
    const int64_t y = n / pool_.pitch, x = n % pool_.pitch;
    if (y >= pool_.height || x >= pool_.width) return 0;
    int64_t count = 0;
    for (int64_t i = down_[y].begin; i < down_[y].end; ++i) {
      for (int64_t j = across_[x].begin; j < across_[x].end; ++j) {
        const float share = 1.0f / static_cast<float>(heights_[i] * widths_[j]);
        terms[count++] = {share, grad + (i * pool_.out_width + j) * channels};
      }
    }
    return count;
  }

 private:
  const PoolWindow& pool_;
  bool any_;
  Interval* down_;  // cells of each row and column of tokens
  Interval* across_;
  int64_t* heights_;  // sizes of each row and column of cells
  int64_t* widths_;
};

}  // namespace
}  // namespace longreel
