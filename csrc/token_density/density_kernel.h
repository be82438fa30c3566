// Three sweeps: products of every two tokens, half of them made and the others their mirror; cosines and each token's nearest;
// and each token's nearest among the denser. A token's numbers are summed by one thread in one order.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/rows.h"
#include "common/scratch.h"
#include "token_density/density_kernels.h"

namespace longreel {
namespace {

// Of a length that is divided by.
constexpr float kShortest = 1e-12f;
constexpr int kNeighbours = 4;
// Tokens that are multiplied by as many: their sums stay in the second cache.
constexpr int64_t kLargeBlock = 512, kBlock = 256, kSmallBlock = 64;
// Products that make it worth waking a thread.
constexpr int64_t kDensityWorthAThread = 1 << 18;

// Contiguous channels: the tokens themselves, or a copy.
template <class T>
struct DenseTokens {
  const T* data;
  int64_t stride;

  const T* operator[](int64_t i) const { return data + i * stride; }
};

// gram [n, n]: products of every two tokens
template <class T, class Products>
void write_products(const DenseTokens<T>& x, int64_t n, int64_t channels, float* gram, const Pool& threads) {
  // A block is packed anew for every other; few tokens, or many threads, cut smaller ones, so that every thread has some. A
  // product is summed in the same order in each.
  const int64_t block = n > 3 * kBlock && threads.threads <= 2 ? kLargeBlock : n > 2 * kBlock ? kBlock : kSmallBlock;
  const int64_t blocks = ceil_div(n, block), pairs = blocks * (blocks + 1) / 2;
  const int64_t workers = workers_for(threads, pairs, ceil_div(kDensityWorthAThread, block * block * channels));
  Arena size(nullptr);
  Products(block, size);
  size.take<float>(block * block);
  const Scratch scratch(workers * size.used());
  share_tiles(threads, workers, pairs, 1, [&](int64_t worker, auto next) {
    Arena arena(scratch.data() + worker * size.used());
    Products products(block, arena);
    float* const sums = arena.take<float>(block * block);
    const typename Products::Session session;
    for (int64_t pair, end; next(&pair, &end);) {
      // pairs (0, 0), (0, 1), (1, 1), (0, 2), ...
      int64_t j = 0;
      while ((j + 1) * (j + 2) / 2 <= pair) ++j;
      const int64_t i = pair - j * (j + 1) / 2;
      const int64_t first = i * block, across = j * block;
      const int64_t rows = std::min(block, n - first), columns = std::min(block, n - across);
      for (int64_t c = 0; c < channels; c += Products::slice) {
        const int64_t some = std::min(channels - c, Products::slice);
        products.pack(x[first] + c, x.stride, rows, some);
        products.pack_across(x[across] + c, x.stride, columns, some);
        products.multiply(rows, columns, i == j, sums, block, c > 0);
      }
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t from = i == j ? r / 32 * 32 : 0;
        std::copy(sums + r * block + from, sums + r * block + columns, gram + (first + r) * n + across + from);
      }
      // the mirror, sixteen by sixteen so that lines are written whole
      for (int64_t c = 0; c < columns; c += 16) {
        for (int64_t r = 0; r < (i == j ? c / 32 * 32 : rows); r += 16) {
          for (int64_t cc = c; cc < std::min(c + 16, columns); ++cc) {
            float* to = gram + (across + cc) * n + first;
            for (int64_t rr = r; rr < std::min(r + 16, rows); ++rr) to[rr] = sums[rr * block + cc];
          }
        }
      }
    }
  });
}

// The four largest of each lane, falling.
struct Largest {
  Lanes of[kNeighbours] = {splat(kNone), splat(kNone), splat(kNone), splat(kNone)};

  static constexpr float kNone = -std::numeric_limits<float>::infinity();

  void add(Lanes x) {
#pragma GCC unroll 4
    for (int k = 0; k < kNeighbours; ++k) {
      const Lanes least = min(of[k], x);
      of[k] = max(of[k], x);
      x = least;
    }
  }

  // mean of d^2 = 2 - 2 cos over the `count` nearest
  float mean_distance(int64_t count) const {
    float all[16 * kNeighbours];
    for (int k = 0; k < kNeighbours; ++k) store(all + 16 * k, of[k]);
    std::partial_sort(all, all + count, all + 16 * kNeighbours, [](float a, float b) { return a > b; });
    float sum = 0.0f;
    for (int64_t k = 0; k < count; ++k) sum += std::max(2.0f - 2.0f * all[k], 0.0f);
    return sum / static_cast<float>(count);
  }
};

// Cosines of token i with all, in place of its products; its density.
inline float write_cosines(int64_t i, int64_t n, const float* inverse, float* row) {
  Largest largest;
  const float own = inverse[i];
  for_lanes(n, [&](int64_t j, int64_t count, auto whole) {
    const Lanes cosine = load(row + j, count, whole) * (splat(own) * load(inverse + j, count, whole));
    store(row + j, cosine, count, whole);
    // itself, and lanes that are not there, are near nothing
    Lanes others = whole ? cosine : within(0, count, cosine, Largest::kNone);
    if (j <= i && i < j + count) {
      float block[16];
      store(block, others);
      block[i - j] = Largest::kNone;
      others = load(block);
    }
    largest.add(others);
  });
  const int64_t nearest = std::min<int64_t>(kNeighbours, n - 1);
  return nearest == 0 ? 1.0f : std::exp(-largest.mean_distance(nearest));
}

// The largest of row [n] where rank [n] < own; of the first rank, the least of all.
inline float nearest_denser(int64_t n, const float* row, const float* rank, float own) {
  if (own == 0.0f) return *std::min_element(row, row + n);
  // cosines are at least about -1: what is taken off the others puts them below
  constexpr float kOff = 8.0f;
  Lanes best = splat(-kOff);
  for_lanes(n, [&](int64_t j, int64_t count, auto whole) {
    const Lanes ahead = keep_between(load(rank + j, count, whole), own - 0.5f, splat(static_cast<float>(n)), splat(kOff));
    const Lanes x = load(row + j, count, whole) + (ahead - splat(kOff));
    best = max(best, whole ? x : within(0, count, x, -kOff));
  });
  return max_of(best);
}

template <class T, class Products>
void token_density(const TokenDensityProblem& problem, const TokenDensityOutputs& outputs, const Pool& threads) {
  const int64_t n = problem.count, channels = problem.channels;
  if (n == 0) return;
  const bool apart = problem.channel_stride != 1;
  const auto layout = [&](Arena& arena) {
    struct {
      T* copy;
      float *inverse, *rank;
      int64_t* order;
    } at{apart ? arena.take<T>(n * channels) : nullptr, arena.take<float>(n), arena.take<float>(n), arena.take<int64_t>(n)};
    return at;
  };
  Arena size(nullptr);
  layout(size);
  const Scratch scratch(size.used());
  Arena arena(scratch.data());
  const auto at = layout(arena);
  DenseTokens<T> x{static_cast<const T*>(problem.tokens), problem.row_stride};
  if (apart) {
    for (int64_t i = 0; i < n; ++i) copy_row(x[i], problem.channel_stride, channels, at.copy + i * channels, channels);
    x = {at.copy, channels};
  }
  float* const likeness = outputs.likeness;
  write_products<T, Products>(x, n, channels, likeness, threads);
  for (int64_t i = 0; i < n; ++i) at.inverse[i] = 1.0f / std::max(std::sqrt(likeness[i * n + i]), kShortest);

  const int64_t workers = workers_for(threads, n, ceil_div(kDensityWorthAThread, 16 * n)), grain = 16;
  share_tiles(threads, workers, n, grain, [&](int64_t, auto next) {
    for (int64_t i, end; next(&i, &end);) {
      for (; i < end; ++i) outputs.density[i] = write_cosines(i, n, at.inverse, likeness + i * n);
    }
  });
  // by density, of equal ones the first; what is no number last
  std::iota(at.order, at.order + n, int64_t{0});
  const auto key = [&](int64_t i) { return outputs.density[i] == outputs.density[i] ? outputs.density[i] : -1.0f; };
  std::sort(at.order, at.order + n, [&](int64_t a, int64_t b) { return key(a) > key(b) || (key(a) == key(b) && a < b); });
  for (int64_t r = 0; r < n; ++r) at.rank[at.order[r]] = static_cast<float>(r);
  share_tiles(threads, workers, n, grain, [&](int64_t, auto next) {
    for (int64_t i, end; next(&i, &end);) {
      for (; i < end; ++i) outputs.denser[i] = nearest_denser(n, likeness + i * n, at.rank, at.rank[i]);
    }
  });
}

}  // namespace
}  // namespace longreel
