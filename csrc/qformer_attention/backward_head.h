// From the sums over a sample's keys to the gradients of a head's queries and weights.
#pragma once

#include "qformer_attention/backward_item.h"

namespace longreel {
namespace {

// Where a head's gradients go: grad_query [Nq, H D] of one sample, sums of the weights' [H D, C].
struct HeadGradients {
  float* query;
  float* w_k;
  float* w_v;
};

template <class T, class Products>
class QFormerHead {
 public:
  QFormerHead(const QFormerProblem& p, const QFormerGradients& g, Arena& arena)
      : p_(p),
        g_(g),
        wanted_(g),
        padded_(round_up(p.channels, Products::multiple)),
        given_(arena.take<float>(p.queries * p.depth)),
        upstream_(arena.take<float>(p.queries * p.depth)),
        d_absorbed_(arena.take<float>(p.queries * padded_)),
        mean_(arena.take<float>(p.queries * padded_)),
        out_(arena.take<float>(round_up(p.queries, 32) * round_up(p.depth, 16))),
        weights_(arena.take<float>(round_up(p.depth, 32) * padded_)),
        left_(Products::take_left(p.queries, p.channels, arena)),
        transposed_(Products::take_left(p.depth, p.queries, arena)),
        rows_(Products::take_rows(p.queries, p.channels, arena)) {}

  // parts: the `count` sums of one sample, joined in order
  void run(int64_t sample, int64_t h, const ItemSums* parts, int64_t count, const HeadWeights<T, Products>& w_k,
           const HeadGradients& into) {
    const int64_t depth = p_.depth, width = p_.width(), out_row = round_up(depth, 16), size = p_.queries * width;
    for (int64_t i = 0; i < p_.queries; ++i) {
      const int64_t at = i * width + h * depth;
      copy_row(static_cast<const T*>(p_.query) + (p_.shared ? 0 : sample) * size + at, 1, depth, given_ + i * depth, depth);
      copy_row(g_.grad_out + sample * size + at, 1, depth, upstream_ + i * depth, depth);
      join(h * p_.queries + i, parts, count, d_absorbed_ + i * padded_, mean_ + i * padded_);
    }
    if (wanted_.query) {
      Products::pack(d_absorbed_, padded_, 1, p_.queries, p_.channels, left_);
      Products::dots(left_, p_.queries, w_k.panels(h), depth, out_, out_row);
      if constexpr (Products::rounds) {
        Products::pack(d_absorbed_, padded_, 1, p_.queries, p_.channels, left_, true);
        Products::dots(left_, p_.queries, w_k.panels(h), depth, out_, out_row, true);
      }
      for (int64_t i = 0; i < p_.queries; ++i) {
        for (int64_t d = 0; d < depth; ++d) into.query[i * width + h * depth + d] = p_.scale * out_[i * out_row + d];
      }
    }
    if (wanted_.w_k) add_weights(given_, d_absorbed_, into.w_k + h * depth * padded_);
    if (wanted_.w_v) add_weights(upstream_, mean_, into.w_v + h * depth * padded_);
  }

 private:
  // A large lse is rounded coarsely, and dp may come of rounded numbers where delta does not: what p sums to says how much all p are off, and what
  // ds sums to, zero in truth, how much delta is.
  void join(int64_t r, const ItemSums* parts, int64_t count, float* d_absorbed, float* mean) const {
    double p = 0, ds = 0;
    for (int64_t s = 0; s < count; ++s) p += parts[s].p[r], ds += parts[s].ds[r];
    std::fill_n(mean, padded_, 0.0f);
    std::fill_n(d_absorbed, padded_, 0.0f);
    for (int64_t s = 0; s < count; ++s) {
      for (int64_t c = 0; c < p_.channels; ++c) mean[c] += parts[s].p_x[r * padded_ + c];
    }
    const float share = static_cast<float>(1 / p), off = static_cast<float>(ds / p);
    for (int64_t s = 0; wanted_.absorbed() && s < count; ++s) {
      for (int64_t c = 0; c < p_.channels; ++c) d_absorbed[c] += parts[s].ds_x[r * padded_ + c];
    }
    for (int64_t c = 0; c < p_.channels; ++c) {
      d_absorbed[c] = share * (d_absorbed[c] - off * mean[c]);
      mean[c] *= share;
    }
  }

  // weights [D, C] += given^T rows, given [Nq, D]
  void add_weights(const float* given, const float* rows, float* weights) {
    Products::pack(given, 1, p_.depth, p_.depth, p_.queries, transposed_);
    Products::pack_rows(rows, padded_, p_.queries, p_.channels, rows_);
    Products::sums(transposed_, p_.depth, rows_, p_.channels, weights_, padded_, false);
    for (int64_t d = 0; d < p_.depth; ++d) {
      float* to = weights + d * padded_;
      for (int64_t c = 0; c < p_.channels; ++c) to[c] += weights_[d * padded_ + c];
    }
  }

  const QFormerProblem& p_;
  const QFormerGradients& g_;
  Wanted wanted_;
  int64_t padded_;
  float *given_, *upstream_, *d_absorbed_, *mean_, *out_, *weights_;
  typename Products::Left left_, transposed_;
  typename Products::Rows rows_;
};

}  // namespace
}  // namespace longreel
