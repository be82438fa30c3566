// dq = scale sum_j ds_j k_j, and the norm and delta of every row.
//
// delta = dout . out carries the rounding of out, and lse its own. Where P is exact, the sweep measures both: with weights p'
// and the first delta, norm = 1 / sum p', the drift e = norm sum p' (dp - delta) is what delta lacks, and
//   dq = scale norm (sum p' (dp - delta + dlse) k - e sum p' k).
#pragma once

#include "block_sparse_attention/key_block.h"
#include "block_sparse_attention/row_terms.h"
#include "common/simd.h"

namespace longreel {
namespace {

// One worker's memory, and its way through the query strips of a group under one key head, as in AttentionForward.
template <class T, class P>
class BackwardDq {
 public:
  using Element = typename P::Element;
  using Unit = typename P::Unit;

  BackwardDq(const AttentionProblem& problem, const AttentionGradients& gradients, const RowTerms& terms, int64_t most_strips,
             Arena& arena)
      : problem_(problem),
        gradients_(gradients),
        terms_(terms),
        scale_(std::abs(problem.scale) * P::per_e),
        width_(round_up(problem.channels, 16 * P::pair)),
        block_(problem, arena),
        keys_(block_.columns(arena)),
        values_(block_.columns(arena)),
        key_sums_(block_.sums(arena)),
        steps_(arena.take<Step>(most_strips)),
        scores_(arena.take<float>(kStrip * kBlock)),
        dp_(arena.take<float>(kStrip * kBlock)),
        weights_(arena.take<Element>(kStrip * kBlock)),
        ds_(arena.take<Element>(P::parts * kStrip * kBlock)) {
    const int64_t rows = most_strips * problem.group() * kStrip, exact_rows = P::exact ? rows : 0;
    queries_ = arena.take<Element>(rows * width_);
    grads_ = arena.take<Element>(rows * width_);
    dq_ = arena.take<float>(rows * width_);
    means_ = arena.take<float>(exact_rows * width_);
    l_ = arena.take<float>(exact_rows * 16);
    drifts_ = arena.take<float>(exact_rows * 16);
  }

  void run(const QueryStrip* strips, const QueryGroup& group, int64_t b, int64_t kv_head) {
    start(strips, group, b, kv_head);
    const Sample sample = sample_of(problem_, b);
    for (int64_t at = 0; at < group.blocks(); ++at) {
      const KeyBlock block = group.block(at);
      const Span may_be_visible = block.is_global ? sample.global : sample.keys;
      const int64_t steps = steps_of(strips, group, block, may_be_visible, steps_);
      if (steps == 0) continue;
      const bool more = at + 1 < group.blocks() && group.block(at + 1).keys.begin == block.keys.end;
      block_.read(sample, b, kv_head, true, block, more);
      block_.as_columns(values_);
      block_.read(sample, b, kv_head, false, block, more);
      block_.as_columns(keys_);
      block_.as_depth(key_sums_);
      for (int64_t h = 0; h < problem_.group(); ++h) {
        for (int64_t s = 0; s < steps; ++s) meet(sample, block, steps_[s], h * count_ + steps_[s].strip);
      }
    }
    finish();
  }

 private:
  int64_t states() const { return count_ * problem_.group(); }
  const QueryStrip& strip(int64_t state) const { return strips_[state % count_]; }
  int64_t head(int64_t state) const { return kv_head_ * problem_.group() + state / count_; }
  int64_t term_at(int64_t state, int64_t r) const {
    return (b_ * problem_.heads + head(state)) * problem_.queries + strip(state).row + r;
  }

  void start(const QueryStrip* strips, const QueryGroup& group, int64_t b, int64_t kv_head) {
    strips_ = strips + group.strips.begin;
    count_ = group.strips.size();
    b_ = b;
    kv_head_ = kv_head;
    std::fill_n(dq_, states() * kStrip * width_, 0.0f);
    if (P::exact) {
      std::fill_n(means_, states() * kStrip * width_, 0.0f);
      std::fill_n(l_, states() * kStrip * 16, 0.0f);
      std::fill_n(drifts_, states() * kStrip * 16, 0.0f);
    }
    for (int64_t i = 0; i < states(); ++i) {
      for (int64_t r = 0; r < strip(i).rows; ++r) {
        const int64_t row = strip(i).row + r, at = (i * kStrip + r) * width_;
        stage_query<T>(problem_, b, row, head(i), queries_ + at, width_);
        stage_grad<T>(problem_, gradients_.grad_out, b, row, head(i), grads_ + at, width_);
      }
    }
  }

  void meet(const Sample& sample, const KeyBlock& block, const Step& step, int64_t i) {
    const int64_t rows = strip(i).rows, first = step.keys.begin, count = step.keys.size();
    const int64_t depth = depth_of<P>(problem_.channels);
    const typename P::Rows shape(rows);
    const auto times_keys = [&](const Element* x, Panels<Unit> y, float* out) {
      P::multiply(x + i * kStrip * width_, width_, rows, y.from(first / 16, 0), count / 16, depth, out + first, kBlock, false);
    };
    times_keys(queries_, keys_, scores_);
    times_keys(grads_, values_, dp_);
    for (int64_t r = 0; r < rows; ++r) {
      const Span visible = step.full ? step.keys : sample.visible(strip(i).row + r, block.is_global).common(block.keys);
      const int64_t origin = step.full ? 0 : block.keys.begin;
      make_ds(i, r, step.keys, {visible.begin - origin, visible.end - origin}, step.full);
    }
    if (gradients_.grad_q == nullptr) return;
    const auto add_keys = [&](const Element* x, float* out) {
      P::multiply(x + first, kBlock, rows, key_sums_.from(0, first / P::pair), ceil_div(problem_.channels, 16), count,
                  out + i * kStrip * width_, width_, true);
    };
    for (int64_t part = 0; part < P::parts; ++part) add_keys(ds_ + part * kStrip * kBlock, dq_);
    if (P::exact) add_keys(weights_, means_);
  }

  // p and ds of row r, but for its norm and drift
  void make_ds(int64_t i, int64_t r, Span keys, Span visible, bool full) {
    const int64_t term = term_at(i, r), sums = (i * kStrip + r) * 16;
    const Lanes minus_shift = splat(-terms_.shift[term]), delta = splat(terms_.delta[term]), dlse = splat(terms_.dlse(term));
    Lanes l_i = splat(0.0f), drift = splat(0.0f);
    for (int64_t j = keys.begin; j < keys.end; j += kLanes) {
      const int64_t at = r * kBlock + j;
      Lanes p = P::power(fma(splat(scale_), load(scores_ + at), minus_shift));
      if (!full) p = within(lane(visible, visible.begin - j), lane(visible, visible.end - j), p, 0.0f);
      const Lanes dp_delta = load(dp_ + at) - delta;
      l_i = l_i + p;
      drift = fma(p, dp_delta, drift);
      if (P::exact) P::store_weights(weights_ + at, p);
      P::store_parts(ds_ + at, kStrip * kBlock, p * (dp_delta + dlse));
    }
    if (!P::exact) return;
    store(l_ + sums, load(l_ + sums) + l_i);
    store(drifts_ + sums, load(drifts_ + sums) + drift);
  }

  static int64_t lane(Span visible, int64_t at) { return visible.empty() || at < 0 ? 0 : at > 16 ? 16 : at; }

  void finish() {
    for (int64_t i = 0; i < states(); ++i) {
      for (int64_t r = 0; r < strip(i).rows; ++r) {
        const int64_t at = i * kStrip + r;
        const float norm = P::exact ? correct(at, term_at(i, r)) : 1.0f;
        if (gradients_.grad_q == nullptr) continue;
        const int64_t row = (b_ * problem_.queries + strip(i).row + r) * problem_.heads + head(i);
        write_scaled(dq_ + at * width_, problem_.scale * norm, problem_.channels,
                     static_cast<T*>(gradients_.grad_q) + row * problem_.channels);
      }
    }
  }

  // Norm of the row, which goes into its terms, as its drift does there and into its sums.
  float correct(int64_t at, int64_t term) const {
    const float l_i = sum(load(l_ + at * 16)), norm = l_i == 0.0f ? 0.0f : 1.0f / l_i;
    const float drift = norm * sum(load(drifts_ + at * 16));
    terms_.norm[term] = norm;
    terms_.delta[term] += drift;
    for (int64_t c = at * width_; c < (at + 1) * width_; c += 16) {
      store(dq_ + c, fma(splat(-drift), load(means_ + c), load(dq_ + c)));
    }
    return norm;
  }

  const AttentionProblem& problem_;
  const AttentionGradients& gradients_;
  const RowTerms& terms_;
  float scale_;
  int64_t width_;  // channels, padded
  PackedBlock<T, P> block_;
  Panels<Unit> keys_, values_, key_sums_;
  Step* steps_;
  float* scores_;
  float* dp_;
  Element* weights_;
  Element* ds_;
  Element* queries_;
  Element* grads_;
  float* dq_;
  float* means_;
  float* l_;
  float* drifts_;
  const QueryStrip* strips_ = nullptr;
  int64_t count_ = 0, b_ = 0, kv_head_ = 0;
};

}  // namespace
}  // namespace longreel
