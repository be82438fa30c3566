// Softmax down the columns of scores [keys, columns] that come block by block.
#pragma once

#include <cmath>
#include <limits>

#include "common/exp.h"
#include "common/softmax.h"

namespace longreel {
namespace {

// The greatest score and the sum of exp(score - greatest) of every column so far.
struct ColumnState {
  float* m_i;
  float* l_i;

  void start(int64_t columns) const {
    std::fill_n(m_i, columns, -std::numeric_limits<float>::infinity());
    std::fill_n(l_i, columns, 0.0f);
  }
};

// s becomes exp(s - m_i) with the new m_i; alpha [columns] is what sums so far are to be multiplied with. Whether any is not 1.
inline bool online_softmax(float* s, int64_t s_row, int64_t keys, int64_t columns, const ColumnState& state, float* alpha) {
  bool moved = false;
  for (int64_t first = 0; first < columns; first += 16) {
    Lanes greatest = load(state.m_i + first);
    for (int64_t n = 0; n < keys; ++n) greatest = max(greatest, load(s + n * s_row + first));
    float base[16];
    store(base, greatest);
    for (int64_t j = 0; j < 16; ++j) {
      float& m_i = state.m_i[first + j];
      // no key so far: nothing to multiply
      alpha[first + j] = m_i == base[j] ? 1.0f : std::exp(m_i - base[j]);
      moved |= alpha[first + j] != 1.0f;
      m_i = base[j];
      if (base[j] == -std::numeric_limits<float>::infinity()) base[j] = 0.0f;
    }
    const Lanes minus_base = splat(0.0f) - load(base);
    ColumnSums sums;
    for (int64_t n = 0; n < keys; ++n) {
      float* at = s + n * s_row + first;
      const Lanes p = exp(load(at) + minus_base);
      sums.add(p);
      store(at, p);
    }
    float* l_i = state.l_i + first;
    const double* added = sums.totals();
    for (int64_t j = 0; j < 16; ++j) l_i[j] = static_cast<float>(l_i[j] * static_cast<double>(alpha[first + j]) + added[j]);
  }
  return moved;
}

}  // namespace
}  // namespace longreel
