// Forward: blocks of keys against the absorbed queries, online softmax, sums of the keys as they are; then W_v, head by head.
#pragma once

#include <optional>

#include "qformer_attention/absorbed.h"
#include "qformer_attention/column_softmax.h"
#include "qformer_attention/key_block.h"

namespace longreel {
namespace {

// What one item leaves: sums [H Nq, C], not yet divided, and the state of their softmax.
struct PartialSums {
  float* sums;
  ColumnState state;

  static PartialSums take(const QFormerProblem& p, int64_t padded, Arena& arena) {
    float* sums = arena.take<float>(round_up(p.rows(), 32) * padded);
    return {sums, state_of(p, arena)};
  }
  static ColumnState state_of(const QFormerProblem& p, Arena& arena) {
    float* m_i = arena.take<float>(round_up(p.rows(), 16));
    return {m_i, arena.take<float>(round_up(p.rows(), 16))};
  }
};

// One worker's memory and its way through the keys of an item.
template <class T, class Products>
class QFormerSums {
 public:
  QFormerSums(const QFormerProblem& p, int64_t longest, Arena& arena)
      : p_(p),
        padded_(round_up(p.channels, Products::multiple)),
        columns_(round_up(p.rows(), 16)),
        block_(block_length(longest, Products::block_keys)),
        reader_(p, block_, arena),
        scores_(arena.take<float>(round_up(block_, Products::rows_multiple) * columns_)),
        alpha_(arena.take<float>(columns_)),
        keys_(Products::take_left(block_, p.channels, arena)),
        weights_(Products::take_left(p.rows(), block_, arena)),
        values_(Products::take_rows(block_, p.channels, arena)) {}

  // Whether the outputs of whole samples are made too.
  static constexpr bool finishes = false;
  // Whether each head meets all its keys at once, and could be absorbed when its turn comes.
  static bool one_block(int64_t /*longest*/) { return false; }

  void run(int64_t sample, int64_t begin, int64_t end, const Absorbed<T, Products>& absorbed, const PartialSums& partial,
           const HeadWeights<T, Products>* /*w_v*/, const QFormerOutputs& /*outputs*/) {
    partial.state.start(columns_);
    if (begin == end) std::fill_n(partial.sums, p_.rows() * padded_, 0.0f);
    for (int64_t n = begin; n < end; n += block_) {
      const auto rows = reader_.read(sample, n, std::min(n + block_, end));
      if constexpr (Products::rows_multiple == 1) {
        Products::pack(rows.data, rows.stride, 1, rows.count, p_.channels, keys_);
      } else {
        Products::pack_keys(rows.data, rows.stride, rows.padded, p_.channels, keys_);
      }
      absorbed.dots(keys_, rows.padded, scores_, columns_);
      for (int64_t i = 0; i < rows.padded; ++i) {
        if (i < rows.count && KeyReader<T, Products>::visible(p_, sample, n + i)) continue;
        std::fill_n(scores_ + i * columns_, columns_, -std::numeric_limits<float>::infinity());
      }
      if (online_softmax(scores_, columns_, rows.padded, columns_, partial.state, alpha_) && n > begin) rescale(partial.sums);
      Products::pack_rows(rows.data, rows.stride, rows.padded, p_.channels, values_);
      Products::pack(scores_, 1, columns_, p_.rows(), rows.padded, weights_);
      Products::sums(weights_, p_.rows(), values_, p_.channels, partial.sums, padded_, n > begin);
    }
  }

 private:
  void rescale(float* sums) const {
    for (int64_t r = 0; r < p_.rows(); ++r) {
      if (alpha_[r] == 1.0f) continue;
      for (int64_t c = 0; c < padded_; c += 16) {
        store(sums + r * padded_ + c, splat(alpha_[r]) * load(sums + r * padded_ + c));
      }
    }
  }

  const QFormerProblem& p_;
  int64_t padded_, columns_, block_;
  KeyReader<T, Products> reader_;
  float* scores_;
  float* alpha_;
  typename Products::Left keys_, weights_;
  typename Products::Rows values_;
};

// From partial sums to a head's output.
template <class T, class Products>
class QFormerFinish {
 public:
  QFormerFinish(const QFormerProblem& p, Arena& arena)
      : p_(p),
        padded_(round_up(p.channels, Products::multiple)),
        mean_(arena.take<float>(round_up(p.queries, 32) * padded_)),
        out_(arena.take<float>(round_up(p.queries, 32) * round_up(p.depth, 16))),
        bias_(arena.take<float>(round_up(p.depth, 16))),
        left_(Products::take_left(p.queries, p.channels, arena)) {}

  // The `count` partial sums of one sample, joined in order.
  void run(int64_t sample, int64_t h, const PartialSums* parts, int64_t count, const HeadWeights<T, Products>& w_v,
           const QFormerOutputs& outputs) {
    const int64_t depth = p_.depth, out_row = round_up(depth, 16);
    float* lse = outputs.lse + (sample * p_.heads + h) * p_.queries;
    for (int64_t i = 0; i < p_.queries; ++i) join(h * p_.queries + i, parts, count, mean_ + i * padded_, lse[i]);
    Products::pack(mean_, padded_, 1, p_.queries, p_.channels, left_);
    Products::dots(left_, p_.queries, w_v.panels(h), depth, out_, out_row);
    if (p_.b_v == nullptr) {
      std::fill_n(bias_, depth, 0.0f);
    } else {
      copy_row(static_cast<const T*>(p_.b_v) + h * depth, 1, depth, bias_, depth);
    }
    for (int64_t i = 0; i < p_.queries; ++i) {
      float* to = outputs.out + (sample * p_.queries + i) * p_.width() + h * depth;
      const bool any = lse[i] != -std::numeric_limits<float>::infinity();
      for (int64_t d = 0; d < depth; ++d) to[d] = any ? out_[i * out_row + d] + bias_[d] : 0.0f;
    }
  }

 private:
  void join(int64_t r, const PartialSums* parts, int64_t count, float* mean, float& lse) const {
    float m = -std::numeric_limits<float>::infinity();
    for (int64_t s = 0; s < count; ++s) m = std::fmax(m, parts[s].state.m_i[r]);
    for (int64_t s = 0; s < count; ++s) {
      if (std::isnan(parts[s].state.m_i[r])) m = parts[s].state.m_i[r];
    }
    std::fill_n(mean, padded_, 0.0f);
    lse = m;
    if (m == -std::numeric_limits<float>::infinity()) return;
    double l_i = 0;
    for (int64_t s = 0; s < count; ++s) {
      const float share = count == 1 ? 1.0f : std::exp(parts[s].state.m_i[r] - m);
      l_i += static_cast<double>(share) * parts[s].state.l_i[r];
      for (int64_t c = 0; c < padded_; c += 16) {
        store(mean + c, fma(splat(share), load(parts[s].sums + r * padded_ + c), load(mean + c)));
      }
    }
    lse = static_cast<float>(m + std::log(l_i));
    const Lanes share = splat(static_cast<float>(1.0 / l_i));
    for (int64_t c = 0; c < padded_; c += 16) store(mean + c, share * load(mean + c));
    std::fill(mean + p_.channels, mean + padded_, 0.0f);
  }

  const QFormerProblem& p_;
  int64_t padded_;
  float* mean_;
  float* out_;
  float* bias_;
  typename Products::Left left_;
};

template <class T>
const T* queries_of(const QFormerProblem& p, int64_t sample) {
  return static_cast<const T*>(p.query) + (p.shared ? 0 : sample) * p.queries * p.width();
}

// Queries, Sums: how an item's keys are met.
template <class T, class Products, class Queries = Absorbed<T, Products>, class Sums = QFormerSums<T, Products>>
void qformer_forward(const QFormerProblem& p, const QFormerOutputs& outputs, const Pool& threads) {
  if (p.batch == 0 || p.queries == 0) return;
  const KeySplits splits(p);
  const int64_t padded = round_up(p.channels, Products::multiple), longest = splits.longest();
  // With splits the parts of every item are kept, and the queries of all items of a sample are one.
  const bool once = p.shared || p.batch == 1, divided = splits.splits > 1;
  Arena common_size(nullptr), worker_size(nullptr);
  const auto common_memory = [&](Arena& arena, auto use) {
    HeadWeights<T, Products> w_k(p, p.w_k, true, false, arena), w_v(p, p.w_v, false, true, arena);
    Queries absorbed(p, true, arena);
    PartialSums* parts = arena.take<PartialSums>(divided ? splits.items() : 0);
    for (int64_t i = 0; divided && i < splits.items(); ++i) {
      const PartialSums part = PartialSums::take(p, padded, arena);
      if (parts != nullptr) parts[i] = part;
    }
    use(w_k, w_v, absorbed, parts);
  };
  const auto worker_memory = [&](Arena& arena, auto use) {
    Sums sums(p, longest, arena);
    QFormerFinish<T, Products> finish(p, arena);
    std::optional<Queries> own;
    if (!once) own.emplace(p, !Sums::one_block(longest), arena);
    PartialSums part{};
    if (!divided)
      part = Sums::finishes && Sums::one_block(longest) ? PartialSums{nullptr, PartialSums::state_of(p, arena)}
                                                        : PartialSums::take(p, padded, arena);
    use(sums, finish, own, part);
  };
  common_memory(common_size, [](auto&...) {});
  worker_memory(worker_size, [](auto&...) {});
  const int64_t workers = workers_for(threads, splits.items(), 1);
  const Scratch scratch(common_size.used() + workers * worker_size.used());
  Arena common(scratch.data());
  common_memory(common, [&](auto& w_k, auto& w_v, auto& shared, PartialSums* parts) {
    share_tiles(threads, workers, p.heads, 1, [&](int64_t, auto next) {
      for (int64_t begin, end; next(&begin, &end);) w_k.pack(begin), w_v.pack(begin);
    });
    const auto each_worker = [&](int64_t tiles, auto run) {
      share_tiles(threads, workers, tiles, 1, [&](int64_t worker, auto next) {
        Arena arena(scratch.data() + common_size.used() + worker * worker_size.used());
        worker_memory(arena, [&](auto& sums, auto& finish, auto& own, PartialSums& part) {
          const typename Products::Session session;
          for (int64_t begin, end; next(&begin, &end);) run(begin, sums, finish, own, part);
        });
      });
    };
    if (once) {
      const typename Products::Session session;
      shared.make(queries_of<T>(p, 0), w_k, p.scale);
    }
    each_worker(splits.items(), [&](int64_t item, auto& sums, auto& finish, auto& own, PartialSums& part) {
      const int64_t sample = splits.sample(item), split = item % splits.splits;
      if (own) own->make(queries_of<T>(p, sample), w_k, p.scale);
      const PartialSums& into = divided ? parts[item] : part;
      auto& queries = own ? *own : shared;
      sums.run(sample, splits.begin(split), splits.begin(split + 1), queries, into, divided ? nullptr : &w_v, outputs);
      for (int64_t h = 0; !Sums::finishes && !divided && h < p.heads; ++h) finish.run(sample, h, &into, 1, w_v, outputs);
    });
    if (!divided) return;
    each_worker(p.batch * p.heads, [&](int64_t tile, auto&, auto& finish, auto&, PartialSums&) {
      const int64_t sample = tile / p.heads;
      finish.run(sample, tile % p.heads, parts + sample * splits.splits, splits.splits, w_v, outputs);
    });
  });
}

}  // namespace
}  // namespace longreel
