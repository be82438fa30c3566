// dv_j = sum_r p_rj dout_r and dk_j = scale sum_r ds_rj q_r: blocks of query rows are packed once and met by every strip of
// keys of a group of KV blocks.
#pragma once

#include "block_sparse_attention/query_block.h"
#include "common/simd.h"

namespace longreel {
namespace {

// One worker's memory, and its way through the KV blocks of a group under one key head.
template <class T, class P>
class BackwardDkv {
 public:
  using Element = typename P::Element;

  BackwardDkv(const AttentionProblem& problem, const AttentionGradients& gradients, const RowTerms& terms, int64_t most_blocks,
              int64_t most_strips, Arena& arena)
      : problem_(problem),
        scale_(std::abs(problem.scale) * P::per_e),
        width_(round_up(problem.channels, 16 * P::pair)),
        queries_(problem, gradients, terms, arena),
        next_range_(arena.take<int32_t>(most_blocks)),
        scores_(arena.take<float>(kStrip * kBlock)),
        dp_(arena.take<float>(kStrip * kBlock)),
        weights_(arena.take<Element>(P::parts * kStrip * kBlock)),
        ds_(arena.take<Element>(P::parts * kStrip * kBlock)),
        visible_(arena.take<Span>(kBlock)),
        low_(arena.take<float>(kBlock)),
        high_(arena.take<float>(kBlock)) {
    const int64_t rows = most_strips * kStrip;
    keys_ = arena.take<Element>(rows * width_);
    values_ = arena.take<Element>(rows * width_);
    dk_ = arena.take<float>(rows * width_);
    dv_ = arena.take<float>(rows * width_);
  }

  void run(const KvGroup& group, int64_t b, int64_t kv_head) {
    const layout::KvBlock* kv_blocks = problem_.layout.kv_blocks + group.kv_blocks.begin;
    const int64_t count = group.kv_blocks.size();
    const Sample sample = sample_of(problem_, b);
    may_be_visible_ = group.is_global ? sample.global : sample.keys;
    read_keys(kv_blocks, count, sample, b, kv_head);
    for (int64_t h = 0; h < problem_.group(); ++h) {
      for (int64_t u = 0; u < count; ++u) next_range_[u] = kv_blocks[u].first_range;
      for (Span block{0, 0}; next_block(kv_blocks, count, block);) {
        queries_.read(b, kv_head * problem_.group() + h, block);
        int64_t row = 0;
        for (int64_t u = 0; u < count; ++u) {
          meet(kv_blocks[u], next_range_[u], sample, block, row);
          row += padded_keys(kv_blocks[u]);
        }
      }
    }
  }

  // f(kv_block, key, sums of ds q [width], sums of p dout [width]) for every key of the group
  template <class F>
  void for_keys(const KvGroup& group, F f) const {
    int64_t row = 0;
    for (int64_t u = group.kv_blocks.begin; u < group.kv_blocks.end; ++u) {
      const layout::KvBlock& kv_block = problem_.layout.kv_blocks[u];
      for (int64_t key = kv_block.key_begin; key < kv_block.key_end; ++key) {
        const int64_t at = (row + key - kv_block.key_begin) * width_;
        f(u, key, dk_ + at, dv_ + at);
      }
      row += padded_keys(kv_block);
    }
  }

 private:
  static int64_t padded_keys(const layout::KvBlock& kv_block) {
    return round_up(kv_block.key_end - kv_block.key_begin, kStrip);
  }

  void read_keys(const layout::KvBlock* kv_blocks, int64_t count, const Sample& sample, int64_t b, int64_t kv_head) {
    int64_t row = 0;
    for (int64_t u = 0; u < count; ++u) {
      const Span keys = {kv_blocks[u].key_begin, kv_blocks[u].key_end};
      const bool is_global = kv_blocks[u].is_global;
      stage_keys<T>(problem_, sample, b, kv_head, false, is_global, keys, keys_ + row * width_, width_);
      stage_keys<T>(problem_, sample, b, kv_head, true, is_global, keys, values_ + row * width_, width_);
      row += padded_keys(kv_blocks[u]);
    }
    std::fill_n(dk_, row * width_, 0.0f);
    std::fill_n(dv_, row * width_, 0.0f);
  }

  // The next rows, at most kBlock from the first that some KV block still has to meet; false at the end.
  bool next_block(const layout::KvBlock* kv_blocks, int64_t count, Span& block) const {
    const layout::QueryRange* query_ranges = problem_.layout.query_ranges;
    const int64_t done = block.end;
    int64_t begin = problem_.queries;
    for (int64_t u = 0; u < count; ++u) {
      while (next_range_[u] < kv_blocks[u].last_range && query_ranges[next_range_[u]].end <= done) ++next_range_[u];
      if (next_range_[u] < kv_blocks[u].last_range)
        begin = std::min(begin, std::max<int64_t>(done, query_ranges[next_range_[u]].begin));
    }
    block = {begin, begin};
    for (int64_t u = 0; u < count; ++u) {
      for (int64_t r = next_range_[u]; r < kv_blocks[u].last_range && query_ranges[r].begin < begin + kBlock; ++r) {
        block.end = std::max<int64_t>(block.end, std::min<int64_t>(query_ranges[r].end, begin + kBlock));
      }
    }
    return !block.empty();
  }

  void meet(const layout::KvBlock& kv_block, int64_t range, const Sample& sample, Span block, int64_t row) {
    const layout::QueryRange* query_ranges = problem_.layout.query_ranges;
    Span rows;
    bool full = may_be_visible_.begin <= kv_block.key_begin && kv_block.key_end <= may_be_visible_.end;
    for (int64_t r = range; r < kv_block.last_range && query_ranges[r].begin < block.end; ++r) {
      const Span met = Span{query_ranges[r].begin, query_ranges[r].end}.common(block);
      if (met.empty()) continue;
      full = full && rows.empty() && query_ranges[r].full_begin <= met.begin && met.end <= query_ranges[r].full_end;
      rows = rows.empty() ? met : rows.with(met);
    }
    if (rows.empty()) return;
    const Span lanes = {rows.begin - block.begin, rows.end - block.begin};
    full = full && lanes.begin % kLanes == 0 && lanes.end % kLanes == 0;
    if (!full) limit(kv_block, sample, block, lanes);
    for (int64_t key = kv_block.key_begin; key < kv_block.key_end; key += kStrip, row += kStrip) {
      const Span keys = {key - kv_block.key_begin, std::min<int64_t>(kv_block.key_end, key + kStrip) - kv_block.key_begin};
      const Span met = full ? lanes : rounded(visible_lanes(keys, lanes));
      if (!met.empty()) add_strip(keys, met, full, row);
    }
  }

  // What the rows attend to of the KV block's keys, counted from its first; nothing outside of `lanes`.
  void limit(const layout::KvBlock& kv_block, const Sample& sample, Span block, Span lanes) {
    for (int64_t i = 0; i < kBlock; ++i) {
      Span visible;
      if (lanes.begin <= i && i < lanes.end) {
        visible = sample.visible(block.begin + i, kv_block.is_global).common({kv_block.key_begin, kv_block.key_end});
        visible = visible.empty() ? Span{} : Span{visible.begin - kv_block.key_begin, visible.end - kv_block.key_begin};
      }
      visible_[i] = visible;
      low_[i] = static_cast<float>(visible.begin);
      high_[i] = static_cast<float>(visible.end);
    }
  }

  Span visible_lanes(Span keys, Span lanes) const {
    const auto blind = [&](int64_t i) { return visible_[i].common(keys).empty(); };
    while (lanes.begin < lanes.end && blind(lanes.begin)) ++lanes.begin;
    while (lanes.begin < lanes.end && blind(lanes.end - 1)) --lanes.end;
    return lanes;
  }

  static Span rounded(Span lanes) {
    return lanes.empty() ? Span{} : Span{lanes.begin / kLanes * kLanes, round_up(lanes.end, kLanes)};
  }

  // Adds what the query rows in `lanes` give the strip of keys whose memory begins at `row`.
  void add_strip(Span keys, Span lanes, bool full, int64_t row) {
    const int64_t rows = keys.size(), first = lanes.begin, count = lanes.size(), panels = ceil_div(problem_.channels, 16);
    const int64_t depth = depth_of<P>(problem_.channels);
    const auto q = queries_.panels();
    const typename P::Rows shape(rows);
    P::multiply(keys_ + row * width_, width_, rows, q.query_columns.from(first / 16, 0), count / 16, depth, scores_ + first,
                kBlock, false);
    P::multiply(values_ + row * width_, width_, rows, q.grad_columns.from(first / 16, 0), count / 16, depth, dp_ + first,
                kBlock, false);
    for (int64_t j = 0; j < rows; ++j) make_ds(j, static_cast<float>(keys.begin + j), lanes, full);
    for (int64_t at = first; at < P::parts * kStrip * kBlock; at += kStrip * kBlock) {
      P::multiply(weights_ + at, kBlock, rows, q.grad_depth.from(0, first / P::pair), panels, count, dv_ + row * width_, width_,
                  true);
      P::multiply(ds_ + at, kBlock, rows, q.query_depth.from(0, first / P::pair), panels, count, dk_ + row * width_, width_,
                  true);
    }
  }

  // p and ds of key j of the strip, by query rows
  void make_ds(int64_t j, float key, Span lanes, bool full) {
    for (int64_t i = lanes.begin; i < lanes.end; i += kLanes) {
      const int64_t at = j * kBlock + i;
      Lanes p = P::power(fma(splat(scale_), load(scores_ + at), splat(0.0f) - load(queries_.shift() + i)));
      if (P::exact) p = p * load(queries_.norm() + i);
      const Lanes dp_delta = load(dp_ + at) - load(queries_.delta() + i);
      Lanes ds = p * (dp_delta + load(queries_.dlse() + i));
      if (!full) {
        // each for itself: the product of a value that nobody attends to may be NaN
        p = keep_between(load(low_ + i), key, load(high_ + i), p);
        ds = keep_between(load(low_ + i), key, load(high_ + i), ds);
      }
      P::store_parts(weights_ + at, kStrip * kBlock, p);
      P::store_parts(ds_ + at, kStrip * kBlock, ds);
    }
  }

  const AttentionProblem& problem_;
  float scale_;
  int64_t width_;  // channels, padded
  QueryBlock<T, P> queries_;
  int32_t* next_range_;
  float* scores_;  // [keys, query rows], as the three below
  float* dp_;
  Element* weights_;
  Element* ds_;
  Span* visible_;
  float* low_;
  float* high_;
  Element* keys_;
  Element* values_;
  float* dk_;
  float* dv_;
  Span may_be_visible_;
};

}  // namespace
}  // namespace longreel
