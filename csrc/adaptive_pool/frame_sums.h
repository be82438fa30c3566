// One sweep over the rows of a frame: weighted sums over all tokens, and the mean of every pooled cell.
#pragma once

#include "adaptive_pool/pool_window.h"
#include "common/combine.h"
#include "common/rows.h"
#include "common/scratch.h"

namespace longreel {
namespace {

// Outputs 0 .. weighted - 1 are sums weighted by one [tokens] row each; one more collects a cell.
template <class T>
class FrameSums {
 public:
  FrameSums(const PoolWindow& pool, int64_t channels, int64_t longest, int64_t weighted, Arena& arena)
      : pool_(pool),
        channels_(channels),
        padded_(round_up(channels, 16)),
        longest_(longest),
        weighted_(weighted),
        rows_(arena.take<const T*>(longest)),
        coefficients_(arena.take<float>((weighted + 1) * longest)),
        sums_(arena.take<float>((weighted + 1) * padded_)) {}

  // x: `tokens` rows after the prefix; weights: one row [tokens] per weighted sum; content [cells, C] is written.
  void run(const T* x, int64_t x_row, int64_t tokens, const float* const* weights, T* content) {
    x_ = x;
    x_row_ = x_row;
    weights_ = weights;
    std::fill_n(sums_, weighted_ * padded_, 0.0f);
    std::fill_n(coefficients_ + weighted_ * longest_, tokens, 1.0f);
    const bool together = pool_.cells() > 0 && pool_.disjoint();
    if (!together) {
      for (int64_t n = 0; n < tokens; ++n) gather(n);
      add(0, weighted_);
    }
    float* cell_sum = sums_ + weighted_ * padded_;
    for (int64_t cell = 0; cell < pool_.cells(); ++cell) {
      const Interval rows = pool_.rows_of(cell), columns = pool_.columns_of(cell);
      for (int64_t y = rows.begin; y < rows.end; ++y) {
        for (int64_t c = columns.begin; c < columns.end; ++c) gather(y * pool_.pitch + c);
      }
      std::fill_n(cell_sum, padded_, 0.0f);
      add(together ? 0 : weighted_, weighted_ + 1);
      const int64_t area = rows.size() * columns.size();
      write_scaled(cell_sum, area == 0 ? 0.0f : 1.0f / static_cast<float>(area), channels_, content + cell * channels_);
    }
    if (together && weighted_ > 0 && pool_.height * pool_.width < tokens) {
      for (int64_t n = 0; n < tokens; ++n) {
        if (n / pool_.pitch >= pool_.height || n % pool_.pitch >= pool_.width) gather(n);
      }
      add(0, weighted_);
    }
  }

  const float* weighted(int64_t i) const { return sums_ + i * padded_; }

 private:
  void gather(int64_t n) {
    rows_[gathered_] = x_ + n * x_row_;
    for (int64_t i = 0; i < weighted_; ++i) coefficients_[i * longest_ + gathered_] = weights_[i][n];
    ++gathered_;
  }

  // Adds the gathered rows to outputs first .. last - 1.
  void add(int64_t first, int64_t last) {
    const Coefficients a{coefficients_, longest_, 1};
    if (first < last) combine(a.from(first), last - first, rows_, gathered_, channels_, sums_ + first * padded_, padded_);
    gathered_ = 0;
  }

  const PoolWindow& pool_;
  int64_t channels_, padded_, longest_, weighted_;
  const T** rows_;
  float* coefficients_;
  float* sums_;
  const T* x_ = nullptr;
  int64_t x_row_ = 0;
  const float* const* weights_ = nullptr;
  int64_t gathered_ = 0;
};

}  // namespace
}  // namespace longreel
