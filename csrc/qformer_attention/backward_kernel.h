// Backward: samples in a fixed number of chunks, or the parts of few samples; what they leave is joined in order.
#pragma once

#include "qformer_attention/backward_head.h"

namespace longreel {
namespace {

// Sums of the weights' gradients: one a chunk of samples, or, where a sample has several items, one in all; and the queries'
// gradients, sample by sample.
struct QFormerShares {
  static constexpr int64_t kChunks = 16;

  int64_t samples, chunks, query_size, weight_size;
  float* query;
  float* w_k;
  float* w_v;

  QFormerShares(const QFormerProblem& p, const Wanted& wanted, bool split, int64_t padded, Arena& arena)
      : samples(p.queries == 0 ? 0 : p.batch),
        chunks(split ? 1 : std::min(samples, kChunks)),
        query_size(p.queries * p.width()),
        weight_size(p.width() * padded),
        query(wanted.query ? arena.take<float>(samples * query_size) : nullptr),
        w_k(wanted.w_k ? arena.take<float>(chunks * weight_size) : nullptr),
        w_v(wanted.w_v ? arena.take<float>(chunks * weight_size) : nullptr) {}

  int64_t begin(int64_t chunk) const { return chunk * samples / chunks; }

  HeadGradients of(int64_t sample, int64_t chunk) const {
    const auto at = [](float* base, int64_t offset) { return base == nullptr ? nullptr : base + offset; };
    return {at(query, sample * query_size), at(w_k, chunk * weight_size), at(w_v, chunk * weight_size)};
  }

  // To be called before anything is added.
  void clear() const {
    if (query != nullptr) std::fill_n(query, samples * query_size, 0.0f);
    if (w_k != nullptr) std::fill_n(w_k, chunks * weight_size, 0.0f);
    if (w_v != nullptr) std::fill_n(w_v, chunks * weight_size, 0.0f);
  }
};

// to [count] = scale * the sum of `parts` arrays that lie `step` apart
template <class T>
inline void join_shares(const float* from, int64_t step, int64_t parts, float scale, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += from[part * step + i];
    to[i] = from_float<T>(static_cast<float>(scale * sum));
  }
}

template <class T>
void bias_gradient(const QFormerProblem& p, const QFormerGradients& g) {
  for (int64_t c = 0; c < p.width(); ++c) {
    double sum = 0;
    for (int64_t b = 0; b < p.batch; ++b) {
      if (p.queries == 0 || g.lse[b * p.rows()] == -std::numeric_limits<float>::infinity()) continue;
      const float* grad = g.grad_out + b * p.queries * p.width();
      for (int64_t i = 0; i < p.queries; ++i) sum += grad[i * p.width() + c];
    }
    static_cast<T*>(g.grad_b_v)[c] = from_float<T>(static_cast<float>(sum));
  }
}

// Of every frame: the sum of its keys' gradients over samples and keys, in runs of 64.
template <class T>
void table_gradient(const QFormerProblem& p, const QFormerGradients& g, const Pool& threads) {
  const int64_t frames = p.keys / p.frame_size, padded = round_up(p.channels, 16), workers = workers_for(threads, frames, 4);
  const Scratch scratch(2 * workers * padded * static_cast<int64_t>(sizeof(float)));
  share_tiles(threads, workers, frames, 1, [&](int64_t worker, auto next) {
    float* const sum = reinterpret_cast<float*>(scratch.data()) + 2 * worker * padded;
    float* const run = sum + padded;
    for (int64_t t, end; next(&t, &end);) {
      std::fill_n(sum, padded, 0.0f);
      for (int64_t first = 0, total = p.batch * p.frame_size; first < total; first += 64) {
        std::fill_n(run, padded, 0.0f);
        for (int64_t i = first; i < std::min(first + 64, total); ++i) {
          const int64_t key = i / p.frame_size * p.keys + t * p.frame_size + i % p.frame_size;
          const T* dx = static_cast<const T*>(g.grad_x) + key * p.channels;
          for_lanes(p.channels,
                    [&](int64_t c, int64_t lanes, auto whole) { store(run + c, load(run + c) + load(dx + c, lanes, whole)); });
        }
        for (int64_t c = 0; c < padded; c += 16) store(sum + c, load(sum + c) + load(run + c));
      }
      write_scaled(sum, 1.0f, p.channels, static_cast<T*>(g.grad_table) + t * p.channels);
    }
  });
}

template <class T, class Products>
void qformer_backward(const QFormerProblem& p, const QFormerGradients& given, const Pool& threads) {
  QFormerGradients g = given;
  const bool only_table = g.grad_table != nullptr && g.grad_x == nullptr;
  const Scratch keys_gradient(only_table ? p.batch * p.keys * p.channels * static_cast<int64_t>(sizeof(T)) : 0);
  if (only_table) g.grad_x = keys_gradient.data();
  const Wanted wanted(g);
  const KeySplits splits(p);
  const bool split = splits.splits > 1;
  const int64_t padded = round_up(p.channels, Products::multiple), longest = splits.longest();
  Arena common_size(nullptr), worker_size(nullptr);
  const auto common_memory = [&](Arena& arena, auto use) {
    HeadWeights<T, Products> w_k(p, p.w_k, true, wanted.query, arena), w_v(p, p.w_v, true, false, arena);
    const QFormerShares shares(p, wanted, split, padded, arena);
    ItemSums* sums = arena.take<ItemSums>(split ? splits.items() : 0);
    bool* there = arena.take<bool>(split ? splits.items() : 0);
    for (int64_t i = 0; split && i < splits.items(); ++i) {
      const ItemSums made = ItemSums::take(p, padded, arena);
      if (sums != nullptr) sums[i] = made;
    }
    use(w_k, w_v, shares, sums, there);
  };
  const auto worker_memory = [&](Arena& arena, auto use) {
    QFormerItem<T, Products> item(p, g, longest, arena);
    QFormerHead<T, Products> head(p, g, arena);
    const ItemSums own = ItemSums::take(p, padded, arena);
    use(item, head, own);
  };
  common_memory(common_size, [](auto&...) {});
  worker_memory(worker_size, [](auto&...) {});
  const int64_t workers = workers_for(threads, split ? splits.items() : std::min(p.batch, QFormerShares::kChunks), 1);
  const Scratch scratch(common_size.used() + workers * worker_size.used());
  Arena common(scratch.data());
  common_memory(common, [&](auto& w_k, auto& w_v, const QFormerShares& shares, ItemSums* sums, bool* there) {
    shares.clear();
    share_tiles(threads, workers, p.heads, 1, [&](int64_t, auto next) {
      for (int64_t begin, end; next(&begin, &end);) w_k.pack(begin), w_v.pack(begin);
    });
    const auto each_worker = [&](int64_t tiles, auto run) {
      share_tiles(threads, workers, tiles, 1, [&](int64_t worker, auto next) {
        Arena arena(scratch.data() + common_size.used() + worker * worker_size.used());
        worker_memory(arena, [&](auto& item, auto& head, const ItemSums& own) {
          const typename Products::Session session;
          for (int64_t begin, end; next(&begin, &end);) run(begin, item, head, own);
        });
      });
    };
    if (!split) {
      each_worker(shares.chunks, [&](int64_t chunk, auto& item, auto& head, const ItemSums& own) {
        for (int64_t b = shares.begin(chunk); b < shares.begin(chunk + 1); ++b) {
          if (!item.run(b, 0, p.keys, w_k, w_v, own) || !wanted.sums()) continue;
          for (int64_t h = 0; h < p.heads; ++h) head.run(b, h, &own, 1, w_k, shares.of(b, chunk));
        }
      });
    } else if (shares.samples > 0) {
      each_worker(splits.items(), [&](int64_t i, auto& item, auto&, const ItemSums&) {
        const int64_t part = i % splits.splits;
        there[i] = item.run(splits.sample(i), splits.begin(part), splits.begin(part + 1), w_k, w_v, sums[i]);
      });
      each_worker(wanted.sums() ? p.heads : 0, [&](int64_t h, auto&, auto& head, const ItemSums&) {
        for (int64_t b = 0; b < p.batch; ++b) {
          const int64_t first = b * splits.splits;
          if (there[first]) head.run(b, h, sums + first, splits.splits, w_k, shares.of(b, 0));
        }
      });
    }
    share_tiles(threads, workers, p.width(), 8, [&](int64_t, auto next) {
      for (int64_t begin, end; next(&begin, &end);) {
        for (int64_t r = begin; r < end; ++r) {
          const auto join = [&](const float* from, float scale, void* to) {
            join_shares(from + r * padded, shares.weight_size, shares.chunks, scale, p.channels,
                        static_cast<T*>(to) + r * p.channels);
          };
          if (wanted.w_k) join(shares.w_k, p.scale, g.grad_w_k);
          if (wanted.w_v) join(shares.w_v, 1.0f, g.grad_w_v);
        }
      }
    });
    const int64_t sets = p.shared ? 1 : p.batch, parts = p.shared ? p.batch : 1, size = shares.query_size;
    for (int64_t b = 0; wanted.query && size > 0 && b < sets; ++b) {
      join_shares(shares.query + b * parts * size, size, parts, 1.0f, size, static_cast<T*>(g.grad_query) + b * size);
    }
  });
  if (p.queries == 0 && wanted.x) std::fill_n(static_cast<T*>(g.grad_x), p.batch * p.keys * p.channels, T{});
  if (g.grad_b_v != nullptr) bias_gradient<T>(p, g);
  if (g.grad_table != nullptr) table_gradient<T>(p, g, threads);
}

}  // namespace
}  // namespace longreel
