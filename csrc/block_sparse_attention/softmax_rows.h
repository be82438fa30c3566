// Online softmax of one query row, a block of keys at a time.
#pragma once

#include <cmath>
#include <limits>

#include "block_sparse_attention/work.h"
#include "common/simd.h"

namespace longreel {
namespace {

// Scores are scaled and counted in powers of P's base. `top` is a bound of those met so far, up to this slack: it is raised,
// and what was summed shrunk, only when a score stands out by more.
constexpr float kSlack = 2.0f;

template <class P>
struct SoftmaxRow {
  float& top;    // -inf before the first key
  float* total;  // [16], the sum of the weights by lanes
  float* sums;   // [width], the weighted sum of the values
  int64_t width;

  // s [kBlock] scores of the block; weights [kBlock] <- exp(scale s - top) in `keys`, 0 where the row does not see them.
  // Full: the row sees all of `keys`, else those in `seen`.
  template <bool Full>
  void meet(const float* s, Span keys, Span seen, float scale, typename P::Element* weights) const {
    const auto seen_only = [&](int64_t j, Lanes x, float other) {
      return Full ? x : within(lane(seen.begin - j), lane(seen.end - j), x, other);
    };
    const auto score = [&](int64_t j) { return seen_only(j, load(s + j), -std::numeric_limits<float>::infinity()); };
    if (!Full && seen.empty()) {
      std::fill(weights + keys.begin, weights + keys.end, typename P::Element{});
      return;
    }
    Lanes best = score(keys.begin);
    for (int64_t j = keys.begin + kLanes; j < keys.end; j += kLanes) best = max(best, score(j));
    if (any_above(splat(scale) * best, top + kSlack)) raise(scale * max_of(best));
    const Lanes minus_top = splat(-top);
    Lanes sum = load(total);
    for (int64_t j = keys.begin; j < keys.end; j += kLanes) {
      const Lanes weight = seen_only(j, P::power(fma(splat(scale), load(s + j), minus_top)), 0.0f);
      sum = sum + weight;
      P::store_weights(weights + j, weight);
    }
    store(total, sum);
  }

  // The sums become those over exp(scale s - new_top).
  void raise(float new_top) const {
    const Lanes shrink = P::power(splat(top - new_top));
    store(total, load(total) * shrink);
    for (int64_t c = 0; c < width; c += 16) store(sums + c, load(sums + c) * shrink);
    top = new_top;
  }

 private:
  static int64_t lane(int64_t at) { return at < 0 ? 0 : at > 16 ? 16 : at; }
};

}  // namespace
}  // namespace longreel
