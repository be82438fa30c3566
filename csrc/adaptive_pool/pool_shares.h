// Pooling backwards: a token's gradient is the sum of its cells' gradients, each divided by the cell's size.
#pragma once

#include <algorithm>

#include "../common/rows.h"
#include "geometry.h"

namespace longreel {
namespace {

// At most this many cells share one token.
inline int64_t most_shares(const PoolGeometry& pool) {
  if (pool.height == 0 || pool.width == 0) return 0;
  const int64_t down = ceil_div(pool.out_height, pool.height) + 1, across = ceil_div(pool.out_width, pool.width) + 1;
  return std::min(down, pool.out_height) * std::min(across, pool.out_width);
}

// The terms of token n after the prefix; grad [cells, C]. Returns how many.
template <class T>
inline int64_t pool_shares(const PoolGeometry& pool, int64_t n, const T* grad, int64_t channels, Term<T>* terms) {
  if (pool.cells() == 0 || pool.height == 0 || pool.width == 0) return 0;
  const int64_t y = n / pool.pitch, x = n % pool.pitch;
  if (y >= pool.height || x >= pool.width) return 0;
  const Interval down = PoolGeometry::cells_of_token(y, pool.height, pool.out_height);
  const Interval across = PoolGeometry::cells_of_token(x, pool.width, pool.out_width);
  int64_t count = 0;
  for (int64_t i = down.begin; i < down.end; ++i) {
    for (int64_t j = across.begin; j < across.end; ++j) {
      const int64_t cell = i * pool.out_width + j;
      const int64_t area = pool.rows_of(cell).size() * pool.columns_of(cell).size();
      terms[count++] = {1.0f / static_cast<float>(area), grad + cell * channels};
    }
  }
  return count;
}

}  // namespace
}  // namespace longreel
