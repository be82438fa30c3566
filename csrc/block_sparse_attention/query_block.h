// A block of query rows in packed form, for the gradients of keys.
#pragma once

#include "block_sparse_attention/row_terms.h"

namespace longreel {
namespace {

template <class T, class P>
class QueryBlock {
 public:
  using Element = typename P::Element;
  using Unit = typename P::Unit;

  // Queries and output gradients as columns (for scores) and as depth (for sums over query rows).
  struct Packed {
    Panels<Unit> query_columns, query_depth, grad_columns, grad_depth;
  };

  QueryBlock(const AttentionProblem& problem, const AttentionGradients& gradients, const RowTerms& terms, Arena& arena)
      : problem_(problem),
        gradients_(gradients),
        terms_(terms),
        width_(round_up(problem.channels, 16 * P::pair)),
        rows_(arena.take<Element>(kBlock * width_)),
        shift_(arena.take<float>(kBlock)),
        delta_(arena.take<float>(kBlock)),
        norm_(arena.take<float>(kBlock)),
        dlse_(arena.take<float>(kBlock)) {
    const int64_t units = kBlock * width_ / P::pair, columns = width_ / P::pair * 16, depth = kBlock / P::pair * 16;
    panels_ = {{arena.take<Unit>(units), columns},
               {arena.take<Unit>(units), depth},
               {arena.take<Unit>(units), columns},
               {arena.take<Unit>(units), depth}};
  }

  // Rows that attend to nothing, and those behind the last, count as zeros.
  void read(int64_t b, int64_t head, Span rows) {
    const int64_t count = rows.size(), first = (b * problem_.heads + head) * problem_.queries + rows.begin;
    std::copy_n(terms_.shift + first, count, shift_);
    std::copy_n(terms_.delta + first, count, delta_);
    std::copy_n(terms_.norm + first, count, norm_);
    std::fill(shift_ + count, shift_ + kBlock, std::numeric_limits<float>::infinity());
    std::fill(delta_ + count, delta_ + kBlock, 0.0f);
    std::fill(norm_ + count, norm_ + kBlock, 0.0f);
    for (int64_t i = 0; i < kBlock; ++i) dlse_[i] = i < count ? terms_.dlse(first + i) : 0.0f;
    const auto read_rows = [&](auto stage) {
      for (int64_t i = 0; i < kBlock; ++i) {
        Element* row = rows_ + i * width_;
        if (shift_[i] == std::numeric_limits<float>::infinity()) {
          std::fill_n(row, width_, Element{});
        } else {
          stage(rows.begin + i, row);
        }
      }
    };
    read_rows([&](int64_t row, Element* to) { stage_query<T>(problem_, b, row, head, to, width_); });
    rows_to_columns(rows_, width_, width_, kBlock, panels_.query_columns);
    P::rows_to_depth(rows_, width_, width_, kBlock, panels_.query_depth);
    read_rows([&](int64_t row, Element* to) { stage_grad<T>(problem_, gradients_.grad_out, b, row, head, to, width_); });
    rows_to_columns(rows_, width_, width_, kBlock, panels_.grad_columns);
    P::rows_to_depth(rows_, width_, width_, kBlock, panels_.grad_depth);
  }

  const Packed& panels() const { return panels_; }
  const float* shift() const { return shift_; }
  const float* delta() const { return delta_; }
  const float* norm() const { return norm_; }
  const float* dlse() const { return dlse_; }

 private:
  const AttentionProblem& problem_;
  const AttentionGradients& gradients_;
  const RowTerms& terms_;
  int64_t width_;
  Element* rows_;
  float* shift_;
  float* delta_;
  float* norm_;
  float* dlse_;
  Packed panels_;
};

}  // namespace
}  // namespace longreel
