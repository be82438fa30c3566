// dq = scale sum_j ds_j k_j, and the norm of every row. Include after a strips header.
#pragma once

#include "key_steps.h"
#include "row_terms.h"

namespace longreel {
namespace {

// One worker's memory, and its pass over the query strips of a group under one key head, as in AttentionForward.
template <class T, class P>
class QueryGradient {
 public:
  using Element = typename P::Element;
  using Unit = typename P::Unit;

  QueryGradient(const AttentionProblem& problem, const AttentionGradients& gradients, const RowTerms& terms, int64_t most_strips,
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
        value_products_(arena.take<float>(kStrip * kBlock)),
        slopes_(arena.take<Element>(kStrip * kBlock)) {
    const int64_t rows = most_strips * problem.group() * kStrip;
    queries_ = arena.take<Element>(rows * width_);
    grads_ = arena.take<Element>(rows * width_);
    sums_ = arena.take<float>(rows * width_);
    totals_ = arena.take<float>(rows * 16);
  }

  void run(const QueryStrip* strips, const QueryGroup& group, int64_t b, int64_t kv_head) {
    start(strips, group, b, kv_head);
    const Sample sample = sample_of(problem_, b);
    for (int64_t at = 0; at < group.blocks(); ++at) {
      const KeyBlock block = group.block(at);
      const Span may_be_seen = block.is_global ? sample.global : sample.keys;
      const int64_t steps = steps_of(strips, group, block, may_be_seen, P::multiple, steps_);
      if (steps == 0) continue;
      block_.read(sample, b, kv_head, true, block);
      block_.as_columns(values_);
      block_.read(sample, b, kv_head, false, block);
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
    std::fill_n(sums_, states() * kStrip * width_, 0.0f);
    std::fill_n(totals_, states() * kStrip * 16, 0.0f);
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
    const auto times_keys = [&](const Element* x, Panels<Unit> y, float* out) {
      P::multiply(x + i * kStrip * width_, width_, rows, y.from(first / 16, 0), count / 16, width_, out + first, kBlock, false);
    };
    times_keys(queries_, keys_, scores_);
    if (gradients_.grad_q != nullptr) times_keys(grads_, values_, value_products_);
    for (int64_t r = 0; r < rows; ++r) {
      const Span seen = step.full ? step.keys : sample.seen(strip(i).row + r, block.is_global).common(block.keys);
      const int64_t origin = step.full ? 0 : block.keys.begin;
      make_slopes(i, r, step.keys, {seen.begin - origin, seen.end - origin}, step.full);
    }
    if (gradients_.grad_q == nullptr) return;
    P::multiply(slopes_ + first, kBlock, rows, key_sums_.from(0, first / P::pair), ceil_div(problem_.channels, 16), count,
                sums_ + i * kStrip * width_, width_, true);
  }

  // ds of row r, but for its norm
  void make_slopes(int64_t i, int64_t r, Span keys, Span seen, bool full) {
    constexpr int N = P::multiple / 16;
    const bool wanted = gradients_.grad_q != nullptr;
    const int64_t term = term_at(i, r);
    const Lanes minus_shift = splat(-terms_.shift[term]), delta = splat(terms_.delta[term]),
                rise = splat(terms_.rise(term));
    float* total = totals_ + (i * kStrip + r) * 16;
    Lanes mass = load(total);
    for (int64_t j = keys.begin; j < keys.end; j += P::multiple) {
      Lanes slope[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        const int64_t at = r * kBlock + j + 16 * n;
        Lanes p = P::power(fma(splat(scale_), load(scores_ + at), minus_shift));
        if (!full) p = within(lane(seen, seen.begin - j - 16 * n), lane(seen, seen.end - j - 16 * n), p, 0.0f);
        mass = mass + p;
        if (wanted) slope[n] = p * (load(value_products_ + at) - delta + rise);
      }
      if (wanted) P::store_weights(slopes_ + r * kBlock + j, slope);
    }
    store(total, mass);
  }

  static int64_t lane(Span seen, int64_t at) { return seen.empty() || at < 0 ? 0 : at > 16 ? 16 : at; }

  void finish() {
    for (int64_t i = 0; i < states(); ++i) {
      for (int64_t r = 0; r < strip(i).rows; ++r) {
        const int64_t at = i * kStrip + r;
        float norm = 1.0f;
        // A large lse is rounded coarsely: p is normalised anew.
        if (P::exact) {
          const float total = sum(load(totals_ + at * 16));
          norm = total == 0.0f ? 0.0f : 1.0f / total;
        }
        terms_.norm[term_at(i, r)] = norm;
        if (gradients_.grad_q == nullptr) continue;
        const int64_t row = (b_ * problem_.queries + strip(i).row + r) * problem_.heads + head(i);
        write_scaled(sums_ + at * width_, problem_.scale * norm, problem_.channels,
                     static_cast<T*>(gradients_.grad_q) + row * problem_.channels);
      }
    }
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
  float* value_products_;
  Element* slopes_;
  Element* queries_;
  Element* grads_;
  float* sums_;
  float* totals_;
  const QueryStrip* strips_ = nullptr;
  int64_t count_ = 0, b_ = 0, kv_head_ = 0;
};

}  // namespace
}  // namespace longreel
