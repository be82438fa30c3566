// What the backward needs of every query row. Include after packing.h.
#pragma once

#include <cmath>
#include <limits>

#include "packing.h"

namespace longreel {
namespace {

// [B, H, Sq] each: p_rj = norm_r power(scale s_rj - shift_r), ds_rj = p_rj (dp_rj - delta_r). A row that sees nothing has
// shift inf, which makes its weights zeros.
struct RowTerms {
  float *shift, *delta, *norm;

  RowTerms(const AttentionProblem& problem, Arena& arena) {
    const int64_t rows = problem.batch * problem.heads * problem.queries;
    for (float** terms : {&shift, &delta, &norm}) *terms = arena.take<float>(rows);
  }
};

// shift and delta of query row `row` of every head; rows [2, width] is scratch
template <class T, class P>
inline void make_row_terms(const AttentionProblem& problem, const AttentionGradients& gradients, int64_t b, int64_t row,
                           const RowTerms& terms, float* rows) {
  const int64_t channels = problem.channels, width = round_up(channels, 16);
  const auto read = [&](const Heads& from, int64_t head, float* to) {
    stage_row(from.data == nullptr ? nullptr : static_cast<const T*>(from.data) + from.at(b, row, head), from.channel_stride,
              channels, to, width);
  };
  for (int64_t head = 0; head < problem.heads; ++head) {
    const int64_t at = (b * problem.heads + head) * problem.queries + row;
    read(gradients.out, head, rows);
    read(gradients.grad_out, head, rows + width);
    Lanes product = splat(0.0f);
    for (int64_t c = 0; c < width; c += 16) product = fma(load(rows + c), load(rows + width + c), product);
    const float lse = gradients.lse[at];
    terms.shift[at] = lse == -std::numeric_limits<float>::infinity() ? -lse : lse * P::per_e;
    terms.delta[at] = sum(product) - (gradients.grad_lse == nullptr ? 0.0f : gradients.grad_lse[at]);
  }
}

// Rows of the output's gradient; zeros where none came back.
template <class T, class Element>
inline void stage_grad(const AttentionProblem& problem, const Heads& grad, int64_t b, int64_t row, int64_t head, Element* to,
                       int64_t padded) {
  stage_row(grad.data == nullptr ? nullptr : static_cast<const T*>(grad.data) + grad.at(b, row, head), grad.channel_stride,
            problem.channels, to, padded);
}

}  // namespace
}  // namespace longreel
