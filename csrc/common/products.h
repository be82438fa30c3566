// The two products of the backward pass with ds [tokens, columns], in fp32 registers.
#pragma once

#include "common/combine.h"
#include "common/frame_rows.h"

namespace longreel {
namespace {

template <class T>
class VectorProducts {
 public:
  static constexpr int64_t tokens = 8;  // rows that token_rows() makes at once

  VectorProducts(int64_t longest, int64_t /*columns*/, int64_t channels, Arena& arena)
      : channels_(channels), padded_(round_up(channels, 16)), rows_(arena.take<const T*>(longest)) {}

  // queries: one fp32 row [C] for each column, zero where a column is padding
  void set_queries(const float* const* queries, int64_t columns) {
    queries_ = queries;
    columns_ = columns;
  }

  void set_ds(const float* ds, int64_t /*count*/) { ds_ = ds; }

  // out [columns, C padded] += ds^T x
  void add_query_sums(const FrameRows<T>& x, float* out) {
    for (int64_t n = 0; n < x.count; ++n) rows_[n] = x[n];
    combine(Coefficients{ds_, 1, columns_}, columns_, rows_, x.count, channels_, out, padded_);
  }

  // out [count, C padded] = ds q for `count` tokens from n on
  void token_rows(int64_t n, int64_t count, float* out) {
    std::fill_n(out, count * padded_, 0.0f);
    combine(Coefficients{ds_ + n * columns_, columns_, 1}, count, queries_, columns_, channels_, out, padded_);
  }

 private:
  int64_t channels_, padded_;
  const T** rows_;
  const float* const* queries_ = nullptr;
  const float* ds_ = nullptr;
  int64_t columns_ = 0;
};

}  // namespace
}  // namespace longreel
