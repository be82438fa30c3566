// What the backward needs of every query row.
#pragma once

#include <cmath>
#include <limits>

#include "block_sparse_attention/packing.h"

namespace longreel {
namespace {

// Rows of the output or its gradient; zeros where none came back.
template <class T, class Element>
inline void stage_grad(const AttentionProblem& problem, const Heads& grad, int64_t b, int64_t row, int64_t head, Element* to,
                       int64_t padded) {
  stage_row(grad.data == nullptr ? nullptr : static_cast<const T*>(grad.data) + grad.at(b, row, head), grad.channel_stride,
            problem.channels, to, padded);
}

// [B, H, Sq] each: p_rj = norm_r power(scale s_rj - shift_r), ds_rj = p_rj (dp_rj - delta_r + dlse_r). A row that attends to nothing
// has shift inf, which makes its weights zeros.
struct RowTerms {
  float *shift, *delta, *norm;
  const float* grad_lse;  // or null

  RowTerms(const AttentionProblem& problem, const AttentionGradients& gradients, Arena& arena) : grad_lse(gradients.grad_lse) {
    const int64_t rows = problem.batch * problem.heads * problem.queries;
    for (float** terms : {&shift, &delta, &norm}) *terms = arena.take<float>(rows);
  }
  float dlse(int64_t row) const { return grad_lse == nullptr ? 0.0f : grad_lse[row]; }
};

// One worker's memory to make shift and delta of sixteen query rows of a head.
template <class T, class P>
class RowTermMaker {
 public:
  using Element = typename P::Element;
  using Unit = typename P::Unit;

  RowTermMaker(const AttentionProblem& problem, const AttentionGradients& gradients, const RowTerms& terms, Arena& arena)
      : problem_(problem),
        gradients_(gradients),
        terms_(terms),
        width_(round_up(problem.channels, 16 * P::pair)),
        grads_(arena.take<Element>(kStrip * width_)),
        out_(arena.take<Element>(kStrip * width_)),
        columns_{arena.take<Unit>(kStrip * width_ / P::pair), 0},
        products_(arena.take<float>(kStrip * kStrip)) {}

  // delta_r = dout_r . out_r by the product that makes dp_rj = dout_r . v_j: where a row attends to one key, they are equal to the bit.
  void run(int64_t b, int64_t head, Span rows) {
    for (int64_t i = 0; i < kStrip; ++i) {
      const int64_t row = std::min(rows.begin + i, rows.end - 1);
      stage_grad<T>(problem_, gradients_.grad_out, b, row, head, grads_ + i * width_, width_);
      stage_grad<T>(problem_, gradients_.out, b, row, head, out_ + i * width_, width_);
    }
    rows_to_columns(out_, width_, width_, kStrip, columns_);
    P::multiply(grads_, width_, kStrip, columns_, 1, depth_of<P>(problem_.channels), products_, kStrip, false);
    const int64_t first = (b * problem_.heads + head) * problem_.queries + rows.begin;
    for (int64_t i = 0; i < rows.size(); ++i) {
      const float lse = gradients_.lse[first + i];
      terms_.shift[first + i] = lse == -std::numeric_limits<float>::infinity() ? -lse : lse * P::per_e;
      terms_.delta[first + i] = products_[i * kStrip + i];
    }
  }

 private:
  const AttentionProblem& problem_;
  const AttentionGradients& gradients_;
  const RowTerms& terms_;
  int64_t width_;
  Element* grads_;
  Element* out_;
  Panels<Unit> columns_;
  float* products_;
};

}  // namespace
}  // namespace longreel
