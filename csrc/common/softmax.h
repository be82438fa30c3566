// Softmax down the columns of a score matrix [tokens, columns], sixteen columns at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/exp.h"
#include "common/simd.h"

namespace longreel {
namespace {

// Sums sixteen columns over many tokens: short fp32 runs, joined in fp64.
class ColumnSums {
 public:
  void add(Lanes x) { add(x, splat(1.0f)); }

  // A product, rounded once with the sum, whatever the compiler makes of it.
  void add(Lanes x, Lanes y) {
    run_ = fma(x, y, run_);
    if (++length_ == 64) flush();
  }

  const double* totals() {
    flush();
    return totals_;
  }

 private:
  void flush() {
    float values[16];
    store(values, run_);
    for (int i = 0; i < 16; ++i) totals_[i] += values[i];
    run_ = splat(0.0f);
    length_ = 0;
  }

  Lanes run_ = splat(0.0f);
  int length_ = 0;
  double totals_[16] = {};
};

// s [tokens, columns] scores, columns a multiple of 16 of which the first `valid` count:
//   lse_m = log sum_n exp(scale s_nm), weights_n += mean over m of exp(scale s_nm - lse_m). s is overwritten.
inline void softmax_mean(float* s, int64_t s_row, int64_t tokens, int64_t valid, float scale, float* lse, float* weights) {
  for (int64_t first = 0; first < valid; first += 16) {
    Lanes m_i = splat(-std::numeric_limits<float>::infinity());
    for (int64_t n = 0; n < tokens; ++n) m_i = max(m_i, splat(scale) * load(s + n * s_row + first));
    ColumnSums sums;
    for (int64_t n = 0; n < tokens; ++n) {
      float* at = s + n * s_row + first;
      const Lanes e = exp(fma(splat(scale), load(at), splat(0.0f) - m_i));
      sums.add(e);
      store(at, e);
    }
    float m_lanes[16], share[16];
    store(m_lanes, m_i);
    for (int64_t m = 0; m < 16; ++m) {
      const double l_i = sums.totals()[m];
      const bool counts = first + m < valid;
      share[m] = counts ? static_cast<float>(1.0 / (l_i * static_cast<double>(valid))) : 0.0f;
      if (counts) lse[first + m] = static_cast<float>(m_lanes[m] + std::log(l_i));
    }
    const Lanes shares = load(share);
    for (int64_t n = 0; n < tokens; ++n) weights[n] += sum(shares * load(s + n * s_row + first));
  }
}

// Backward of softmax_mean. s holds the scores again, g [tokens] the gradient of the weights, lse [valid] as above:
//   weights_n += mean_m p_nm,  s_nm <- scale (p_nm / valid) (g_n - sum_n' p_n'm g_n'), and 0 in the columns from `valid` on.
// p is normalised anew, because a large lse is rounded coarsely.
inline void softmax_mean_backward(float* s, int64_t s_row, int64_t tokens, int64_t valid, float scale, const float* lse,
                                  const float* g, float* weights) {
  for (int64_t first = 0; first < valid; first += 16) {
    float m_i[16];
    for (int64_t m = 0; m < 16; ++m) m_i[m] = first + m < valid ? lse[first + m] : std::numeric_limits<float>::infinity();
    const Lanes minus_m = splat(0.0f) - load(m_i);
    ColumnSums mass, moment;
    for (int64_t n = 0; n < tokens; ++n) {
      float* at = s + n * s_row + first;
      const Lanes p = exp(fma(splat(scale), load(at), minus_m));
      mass.add(p);
      moment.add(p, splat(g[n]));
      store(at, p);
    }
    // The mean in two floats: what one rounds off is lost to every token alike.
    float share[16], mean[16], rest[16];
    for (int64_t m = 0; m < 16; ++m) {
      const double l_i = mass.totals()[m];
      const bool counts = first + m < valid;
      share[m] = counts ? static_cast<float>(1.0 / (l_i * static_cast<double>(valid))) : 0.0f;
      const double mu = counts ? moment.totals()[m] / l_i : 0.0;
      mean[m] = static_cast<float>(mu);
      rest[m] = static_cast<float>(mu - static_cast<double>(mean[m]));
    }
    const Lanes shares = load(share), means = load(mean), rests = load(rest), scaled = splat(scale) * shares;
    for (int64_t n = 0; n < tokens; ++n) {
      float* at = s + n * s_row + first;
      const Lanes p = load(at);
      weights[n] += sum(shares * p);
      store(at, scaled * p * ((splat(g[n]) - means) - rests));
    }
  }
}

}  // namespace
}  // namespace longreel
