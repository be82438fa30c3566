// Backward of one item: the gradients of its keys, and sums over them.
#pragma once

#include <optional>

#include "qformer_attention/absorbed.h"
#include "qformer_attention/column_softmax.h"
#include "qformer_attention/key_block.h"

namespace longreel {
namespace {

// Which sums over the keys are wanted.
struct Wanted {
  bool query, x, w_k, w_v;

  explicit Wanted(const QFormerGradients& g)
      : query(g.grad_query != nullptr), x(g.grad_x != nullptr), w_k(g.grad_w_k != nullptr), w_v(g.grad_w_v != nullptr) {}
  bool absorbed() const { return query || w_k; }  // the gradient of the absorbed queries
  bool sums() const { return query || w_k || w_v; }
};

// What an item leaves, by rows of [H Nq]: sums over its keys of p, of ds, of ds x and of p x.
struct ItemSums {
  float *p, *ds, *ds_x, *p_x;

  static ItemSums take(const QFormerProblem& problem, int64_t padded, Arena& arena) {
    const int64_t columns = round_up(problem.rows(), 16), rows = round_up(problem.rows(), 32) * padded;
    float* const p = arena.take<float>(columns);
    float* const ds = arena.take<float>(columns);
    float* const ds_x = arena.take<float>(rows);
    return {p, ds, ds_x, arena.take<float>(rows)};
  }
};

// s, dp [keys, columns]: scores and the probabilities' gradient become p and ds = p (dp - delta), whose sums are added up.
inline void softmax_backward(float* s, float* dp, int64_t row, int64_t keys, int64_t columns, const float* lse,
                             const float* delta, const ItemSums& sums) {
  for (int64_t first = 0; first < columns; first += 16) {
    const Lanes minus_lse = splat(0.0f) - load(lse + first), minus_delta = splat(0.0f) - load(delta + first);
    ColumnSums of_p, of_ds;
    for (int64_t n = 0; n < keys; ++n) {
      float* at = s + n * row + first;
      float* to = dp + n * row + first;
      const Lanes p = exp(load(at) + minus_lse), ds = p * (load(to) + minus_delta);
      of_p.add(p);
      of_ds.add(ds);
      store(at, p);
      store(to, ds);
    }
    const double *p_added = of_p.totals(), *ds_added = of_ds.totals();
    for (int64_t j = 0; j < 16; ++j) {
      sums.p[first + j] += static_cast<float>(p_added[j]);
      sums.ds[first + j] += static_cast<float>(ds_added[j]);
    }
  }
}

template <class T, class Products>
class QFormerItem {
 public:
  QFormerItem(const QFormerProblem& p, const QFormerGradients& g, int64_t longest, Arena& arena)
      : p_(p),
        g_(g),
        wanted_(g),
        padded_(round_up(p.channels, Products::multiple)),
        columns_(round_up(p.rows(), 16)),
        block_(block_length(longest, Products::block_keys)),
        reader_(p, block_, arena),
        queries_(p, arena),
        upstream_(p, arena) {
    const int64_t keys = round_up(block_, Products::rows_multiple);
    scores_ = arena.take<float>(keys * columns_);
    dp_ = arena.take<float>(keys * columns_);
    lse_ = arena.take<float>(columns_);
    delta_ = arena.take<float>(columns_);
    keys_ = Products::take_left(block_, p.channels, arena);
    by_rows_ = Products::take_left(p.rows(), block_, arena);
    values_ = Products::take_rows(block_, p.channels, arena);
    if (!wanted_.x) return;
    by_keys_ = Products::take_left(block_, p.rows(), arena);
    query_rows_ = Products::take_rows(p.rows(), p.channels, arena);
    upstream_rows_ = Products::take_rows(p.rows(), p.channels, arena);
    if (Products::rounds) lost_query_rows_ = Products::take_rows(p.rows(), p.channels, arena);
    if (Products::rounds) lost_upstream_rows_ = Products::take_rows(p.rows(), p.channels, arena);
    dx_ = arena.take<float>(round_up(keys, 32) * padded_);
  }

  // The sums of one item, and its keys' gradients; false where the sample has no key.
  bool run(int64_t sample, int64_t begin, int64_t end, const HeadWeights<T, Products>& w_k, const HeadWeights<T, Products>& w_v,
           const ItemSums& into) {
    std::fill_n(into.p, columns_, 0.0f);
    std::fill_n(into.ds, columns_, 0.0f);
    if (begin == end || !start(sample)) {
      if (wanted_.x) std::fill_n(grad_x(sample, begin), (end - begin) * p_.channels, T{});
      return false;
    }
    prepare(sample, w_k, &w_v);
    if (wanted_.x) {
      Products::pack_rows(queries_.rows(), padded_, p_.rows(), p_.channels, query_rows_);
      Products::pack_rows(upstream_.rows(), padded_, p_.rows(), p_.channels, upstream_rows_);
      if constexpr (Products::rounds) {
        Products::pack_rows(queries_.rows(), padded_, p_.rows(), p_.channels, lost_query_rows_, true);
        Products::pack_rows(upstream_.rows(), padded_, p_.rows(), p_.channels, lost_upstream_rows_, true);
      }
    }
    for (int64_t n = begin; n < end; n += block_) block(sample, n, std::min(n + block_, end), n > begin, into);
    return true;
  }

  // The sample's queries, and with w_v its upstream gradients, absorbed.
  void prepare(int64_t sample, const HeadWeights<T, Products>& w_k, const HeadWeights<T, Products>* w_v) {
    const int64_t size = p_.queries * p_.width();
    queries_.make(static_cast<const T*>(p_.query) + (p_.shared ? 0 : sample) * size, w_k, p_.scale);
    if (w_v != nullptr) upstream_.make(g_.grad_out + sample * size, *w_v, 1.0f);
  }

 private:
  // lse and delta = grad_out . (out - b_v); false where the sample has no key.
  bool start(int64_t sample) {
    const float* out = g_.out + sample * p_.queries * p_.width();
    const float* grad = g_.grad_out + sample * p_.queries * p_.width();
    const T* bias = static_cast<const T*>(p_.b_v);
    const float* lse = g_.lse + sample * p_.rows();
    std::fill_n(lse_, columns_, 0.0f);
    std::fill_n(delta_, columns_, 0.0f);
    std::copy_n(lse, p_.rows(), lse_);
    for (int64_t h = 0; h < p_.heads; ++h) {
      for (int64_t i = 0; i < p_.queries; ++i) {
        double sum = 0;
        for (int64_t c = h * p_.depth; c < (h + 1) * p_.depth; ++c) {
          const float b = bias == nullptr ? 0.0f : to_float(bias[c]);
          sum += static_cast<double>(grad[i * p_.width() + c]) * (out[i * p_.width() + c] - b);
        }
        delta_[h * p_.queries + i] = static_cast<float>(sum);
      }
    }
    return lse[0] != -std::numeric_limits<float>::infinity();
  }

  void block(int64_t sample, int64_t begin, int64_t end, bool add, const ItemSums& into) {
    const auto rows = reader_.read(sample, begin, end);
    if constexpr (Products::rows_multiple == 1) {
      Products::pack(rows.data, rows.stride, 1, rows.count, p_.channels, keys_);
    } else {
      Products::pack_keys(rows.data, rows.stride, rows.padded, p_.channels, keys_);
    }
    queries_.dots(keys_, rows.padded, scores_, columns_);
    // In the keys' gradients nothing makes up for a dp that does not fit delta.
    upstream_.dots(keys_, rows.padded, dp_, columns_, wanted_.x);
    for (int64_t i = 0; i < rows.padded; ++i) {
      if (i < rows.count && KeyReader<T, Products>::visible(p_, sample, begin + i)) continue;
      std::fill_n(scores_ + i * columns_, columns_, -std::numeric_limits<float>::infinity());
    }
    softmax_backward(scores_, dp_, columns_, rows.padded, columns_, lse_, delta_, into);
    if (wanted_.sums()) {
      Products::pack_rows(rows.data, rows.stride, rows.padded, p_.channels, values_);
      if (wanted_.absorbed()) {
        add_sums(dp_, rows.padded, into.ds_x, add);
        if constexpr (Products::rounds) add_sums(dp_, rows.padded, into.ds_x, true, true);
      }
      add_sums(scores_, rows.padded, into.p_x, add);
    }
    if (!wanted_.x) return;
    Products::pack(dp_, columns_, 1, rows.padded, p_.rows(), by_keys_);
    Products::sums(by_keys_, rows.padded, query_rows_, p_.channels, dx_, padded_, false);
    // What rounding takes off a query is the same for every key, and adds up in a frame's gradient.
    const bool summed = Products::rounds && g_.grad_table != nullptr;
    if (summed) Products::sums(by_keys_, rows.padded, lost_query_rows_, p_.channels, dx_, padded_, true);
    if constexpr (Products::rounds) {
      Products::pack(dp_, columns_, 1, rows.padded, p_.rows(), by_keys_, true);
      Products::sums(by_keys_, rows.padded, query_rows_, p_.channels, dx_, padded_, true);
    }
    Products::pack(scores_, columns_, 1, rows.padded, p_.rows(), by_keys_);
    Products::sums(by_keys_, rows.padded, upstream_rows_, p_.channels, dx_, padded_, true);
    if (summed) Products::sums(by_keys_, rows.padded, lost_upstream_rows_, p_.channels, dx_, padded_, true);
    T* to = grad_x(sample, begin);
    for (int64_t i = 0; i < rows.count; ++i) write_scaled(dx_ + i * padded_, 1.0f, p_.channels, to + i * p_.channels);
  }

  // out [H Nq, C] = or += a^T keys; ds, whose sum is 0, also with what its rounding takes off
  template <class... Lost>
  void add_sums(const float* a, int64_t keys, float* out, bool add, Lost... lost) {
    Products::pack(a, 1, columns_, p_.rows(), keys, by_rows_, lost...);
    Products::sums(by_rows_, p_.rows(), values_, p_.channels, out, padded_, add);
  }

  T* grad_x(int64_t sample, int64_t key) const { return static_cast<T*>(g_.grad_x) + (sample * p_.keys + key) * p_.channels; }

  const QFormerProblem& p_;
  const QFormerGradients& g_;
  Wanted wanted_;
  int64_t padded_, columns_, block_;
  KeyReader<T, Products> reader_;
  Absorbed<T, Products> queries_, upstream_;
  float *scores_, *dp_, *lse_, *delta_, *dx_ = nullptr;
  typename Products::Left keys_, by_rows_, by_keys_;
  typename Products::Rows values_, query_rows_, upstream_rows_, lost_query_rows_, lost_upstream_rows_;
};

}  // namespace
}  // namespace longreel
