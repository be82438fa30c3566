// Online softmax of one query row, a block of keys at a time.
#pragma once

#include <cmath>
#include <limits>

#include "block_sparse_attention/scheduler.h"
#include "common/simd.h"

namespace longreel {
namespace {

// Scores are scaled and counted in powers of P's base. `m_i` is a bound of those met so far, up to this slack: it is raised,
// and what was summed shrunk, only when a score stands out by more. Exponents of the weights that count are then at most 2, where
// rounding one moves its weight by 2^-24, half a unit of fp32 at most; up to 8 it would be four times as much, half the budget.
constexpr float kSlack = 2.0f;

template <class P>
struct SoftmaxRow {
  float& m_i;  // -inf before the first key
  float* l_i;  // [16], the sum of the weights by lanes
  float* acc;  // [width], the weighted sum of the values
  int64_t width;

  // s [kBlock] scores of the block; weights [kBlock] <- exp(scale s - m_i) in `keys`, 0 where the row does not attend to them.
  // Full: the row attends to all of `keys`, else those in `visible`.
  template <bool Full>
  void meet(const float* s, Span keys, Span visible, float scale, typename P::Element* weights) const {
    const auto visible_only = [&](int64_t j, Lanes x, float other) {
      return Full ? x : within(lane(visible.begin - j), lane(visible.end - j), x, other);
    };
    const auto score = [&](int64_t j) { return visible_only(j, load(s + j), -std::numeric_limits<float>::infinity()); };
    if (!Full && visible.empty()) {
      std::fill(weights + keys.begin, weights + keys.end, typename P::Element{});
      return;
    }
    Lanes best = score(keys.begin);
    for (int64_t j = keys.begin + kLanes; j < keys.end; j += kLanes) best = max(best, score(j));
    if (any_above(splat(scale) * best, m_i + kSlack)) rescale(scale * max_of(best));
    const Lanes minus_m = splat(-m_i);
    Lanes sum = load(l_i);
    for (int64_t j = keys.begin; j < keys.end; j += kLanes) {
      const Lanes weight = visible_only(j, P::power(fma(splat(scale), load(s + j), minus_m)), 0.0f);
      sum = sum + weight;
      P::store_weights(weights + j, weight);
    }
    store(l_i, sum);
  }

  // The sums become those over exp(scale s - m_new).
  void rescale(float m_new) const {
    const Lanes alpha = P::power(splat(m_i - m_new));
    store(l_i, load(l_i) * alpha);
    for (int64_t c = 0; c < width; c += 16) store(acc + c, load(acc + c) * alpha);
    m_i = m_new;
  }

 private:
  static int64_t lane(int64_t at) { return at < 0 ? 0 : at > 16 ? 16 : at; }
};

}  // namespace
}  // namespace longreel
