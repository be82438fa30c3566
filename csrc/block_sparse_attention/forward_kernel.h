// Forward pass: blocks of keys are packed once and met by every query strip of a group.
#pragma once

#include "block_sparse_attention/key_block.h"
#include "block_sparse_attention/online_softmax.h"
#include "common/numbers.h"
#include "common/rows_ahead.h"
#include "common/simd.h"

namespace longreel {
namespace {

// One worker's memory, and its way through the query strips of a group under one key head. State i is a strip of one of its
// heads; where there is one strip, the i-th sixteen of its rows of all heads: few rows over a long cache meet its keys at once.
template <class T, class P>
class AttentionForward {
 public:
  using Element = typename P::Element;
  using Unit = typename P::Unit;
  using PairStep = typename P::Pairs::Step;
  static constexpr int64_t kMostPacked = 16;

  AttentionForward(const AttentionProblem& problem, const AttentionOutputs& outputs, int64_t most_strips, Arena& arena)
      : problem_(problem),
        outputs_(outputs),
        scale_(std::abs(problem.scale) * P::per_e),
        width_(round_up(problem.channels, 16 * P::pair)),
        block_(problem, arena),
        packed_(P::Pairs::there ? std::clamp<int64_t>((int64_t{256} << 10) / (block_.units() * 4), 1, kMostPacked) : 1),
        keys_(block_.columns(arena, packed_)),
        values_(block_.sums(arena, packed_)),
        steps_(arena.take<Step>(most_strips)),
        weights_(arena.take<Element>(kStrip * kBlock)),
        pairs_(arena, most_strips * problem.group()) {
    const int64_t states = most_strips * problem.group();
    for (float*& scores : scores_) scores = arena.take<float>(kStrip * kBlock);
    queries_ = arena.take<Element>(states * kStrip * width_);
    acc_ = arena.take<float>(states * kStrip * width_);
    l_ = arena.take<float>(states * kStrip * 16);
    m_ = arena.take<float>(states * kStrip);
    if constexpr (P::Pairs::there) {
      pair_steps_ = arena.take<PairStep>(packed_ * states);
      largest_ = arena.take<float>(states);
    }
  }

  // Floats of a part's sums, for merge().
  int64_t saved(int64_t most_strips) const { return most_strips * problem_.group() * kStrip * (width_ + 16 + 1); }

  void start(const QueryStrip* strips, const QueryGroup& group, int64_t b, int64_t kv_head) {
    strips_ = strips + group.strips.begin;
    count_ = group.strips.size();
    b_ = b;
    kv_head_ = kv_head;
    const int64_t rows = states() * kStrip;
    std::fill_n(acc_, rows * width_, 0.0f);
    std::fill_n(l_, rows * 16, 0.0f);
    std::fill_n(m_, rows, -std::numeric_limits<float>::infinity());
    for_item_.clear();
  }

  // What is run behind this, whose queries and first keys are fetched meanwhile; start() came before.
  void before(const QueryStrip* strips, const QueryGroup& group, int64_t b, int64_t kv_head) {
    add_rows(problem_.q, strips + group.strips.begin, group.strips.size(), b, kv_head);
    const Sample sample = sample_of(problem_, b);
    if (group.blocks() > 0) add_keys(for_item_, sample, b, kv_head, group.block(0));
  }

  void run(const QueryStrip* strips, const QueryGroup& group, Span blocks) {
    const Sample sample = sample_of(problem_, b_);
    for (int64_t i = 0; i < states(); ++i) {
      for (int64_t r = 0; r < rows(i); ++r) {
        stage_query<T>(problem_, b_, row(i, r), head(i, r), queries_ + (i * kStrip + r) * width_, width_);
      }
    }
    const bool few = states() == 1 && rows(0) <= P::few_rows;
    if constexpr (P::Pairs::there) {
      // Few states leave packing as most of the work: their block stays in the nearest cache.
      if (states() >= kLeastPaired) return run_pairs(sample, strips, group, blocks);
    }
    if (few) P::stage_few(queries_, width_);
    for (int64_t at = blocks.begin; at < blocks.end; ++at) {
      const KeyBlock block = group.block(at);
      const Span may_be_visible = block.is_global ? sample.global : sample.keys;
      const int64_t steps = steps_of(strips, group, block, may_be_visible, steps_);
      if (steps == 0) continue;
      const bool more = at + 1 < blocks.end && group.block(at + 1).keys.begin == block.keys.end;
      block_.read(sample, b_, kv_head_, false, block, few && more);
      if (few) {
        meet_few(sample, block, more);
        continue;
      }
      block_.as_columns(keys_);
      block_.read(sample, b_, kv_head_, true, block, false);
      block_.as_depth(values_);
      for_block_.clear();
      if (at + 1 < blocks.end) add_keys(for_block_, sample, b_, kv_head_, group.block(at + 1));
      meet(sample, block, steps, blocks.end - at);
    }
  }

  // out and lse of the strips
  void finish() {
    const int64_t heads = problem_.heads, channels = problem_.channels;
    for (int64_t i = 0; i < states(); ++i) {
      for (int64_t r = 0; r < rows(i); ++r) {
        const int64_t at = i * kStrip + r, own = row(i, r), h = head(i, r);
        const float l_i = sum(load(l_ + at * 16));
        T* out = static_cast<T*>(outputs_.out) + ((b_ * problem_.queries + own) * heads + h) * channels;
        write_scaled(acc_ + at * width_, l_i == 0.0f ? 0.0f : 1.0f / l_i, channels, out);
        outputs_.lse[(b_ * heads + h) * problem_.queries + own] = m_[at] / P::per_e + std::log(l_i);
      }
    }
  }

  void save(float* to) const {
    const int64_t rows = states() * kStrip;
    to = std::copy_n(acc_, rows * width_, to);
    to = std::copy_n(l_, rows * 16, to);
    std::copy_n(m_, rows, to);
  }

  // Adds the sums of a part that was saved.
  void merge(const float* from) {
    const int64_t rows = states() * kStrip;
    const float *sums = from, *l = sums + rows * width_, *m = l + rows * 16;
    for (int64_t r = 0; r < rows; ++r) {
      const SoftmaxRow<P> row = softmax_row(r);
      if (m[r] > row.m_i) row.rescale(m[r]);
      const Lanes alpha = P::power(splat(std::isinf(m[r]) ? m[r] : m[r] - row.m_i));
      store(row.l_i, fma(alpha, load(l + r * 16), load(row.l_i)));
      for (int64_t c = 0; c < width_; c += 16) store(row.acc + c, fma(alpha, load(sums + r * width_ + c), load(row.acc + c)));
    }
  }

 private:
  bool one_strip() const { return count_ == 1; }
  int64_t states() const { return states_of(strips_, count_, problem_.group()); }
  const QueryStrip& strip(int64_t state) const { return strips_[state % count_]; }
  // Rows of a state, and the query row and head of its row r.
  int64_t rows(int64_t state) const {
    const int64_t own = strip(state).rows;
    return one_strip() ? std::min(kStrip, problem_.group() * own - state * kStrip) : own;
  }
  int64_t row(int64_t state, int64_t r) const {
    return strip(state).row + (one_strip() ? (state * kStrip + r) % strip(state).rows : r);
  }
  int64_t head(int64_t state, int64_t r) const {
    return kv_head_ * problem_.group() + (one_strip() ? (state * kStrip + r) / strip(state).rows : state / count_);
  }
  SoftmaxRow<P> softmax_row(int64_t row) { return {m_[row], l_ + row * 16, acc_ + row * width_, width_}; }

  // Query rows of the strips, of all heads under the key head.
  void add_rows(const Heads& x, const QueryStrip* strips, int64_t count, int64_t b, int64_t kv_head) {
    if (x.channel_stride != 1) return;
    const int64_t first = strips[0].row, rows = strips[count - 1].row + strips[count - 1].rows - first,
                  group = problem_.group(), together = x.head_stride == problem_.channels ? group : 1;
    for (int64_t h = 0; h < group; h += together) {
      for_item_.add(static_cast<const T*>(x.data) + x.at(b, first, kv_head * group + h), x.row_stride * sizeof(T), rows,
                    together * problem_.channels * sizeof(T));
    }
  }

  // Keys and values of a block, where they stand in order.
  void add_keys(RowsAhead& ahead, const Sample& sample, int64_t b, int64_t kv_head, const KeyBlock& block) const {
    if (block.is_global && !problem_.own_global()) return;
    const Span keys = block.keys.common(block.is_global ? sample.global : sample.keys);
    for (bool values : {false, true}) {
      const Heads& x = keys_of(problem_, values, block.is_global);
      if (x.channel_stride != 1 || keys.empty()) continue;
      ahead.add(static_cast<const T*>(x.data) + x.at(b, keys.begin, kv_head), x.row_stride * sizeof(T), keys.size(),
                problem_.channels * sizeof(T));
    }
  }

  // Every strip of every head meets the packed block, one of so many that are left. The scores of the next strip are under way while
  // weights are made of these, and rows come that are next.
  void meet(const Sample& sample, const KeyBlock& block, int64_t steps, int64_t blocks) {
    const int64_t count = steps * (states() / count_);
    const int64_t each_block = for_block_.each(count * kStrip), each_item = for_item_.each(count * kStrip * blocks);
    score(0, steps);
    for (int64_t e = 0; e < count; ++e) {
      if (e + 1 < count) score(e + 1, steps);
      const Step& step = steps_[e % steps];
      const int64_t i = e / steps * count_ + step.strip, count_of_rows = rows(i);
      weigh(sample, block, step, i, scores_[e % 2], each_block, each_item);
      const typename P::Rows shape(count_of_rows);
      P::multiply(weights_ + step.keys.begin, kBlock, count_of_rows, values_.from(0, step.keys.begin / P::pair),
                  ceil_div(problem_.channels, 16), step.keys.size(), acc_ + i * kStrip * width_, width_, true);
    }
  }

  // weights_ from the scores of state i; lines to be fetched a row
  void weigh(const Sample& sample, const KeyBlock& block, const Step& step, int64_t i, const float* scores,
             int64_t lines_of_block = 0, int64_t lines_of_item = 0) {
    const int64_t count = rows(i);
    for (int64_t r = 0; r < count; ++r) {
      for_block_.fetch(lines_of_block);
      for_item_.fetch(lines_of_item);
      const SoftmaxRow<P> softmax = softmax_row(i * kStrip + r);
      const float* s = scores + r * kBlock;
      if (step.full) {
        softmax.template meet<true>(s, step.keys, {}, scale_, weights_ + r * kBlock);
      } else {
        const Span visible = sample.visible(row(i, r), block.is_global).common(block.keys);
        const Span here = {visible.begin - block.keys.begin, visible.end - block.keys.begin};
        softmax.template meet<false>(s, step.keys, here, scale_, weights_ + r * kBlock);
      }
    }
  }

  // Pairs of strips meet groups of packed blocks, a pair all of a group before the next pair.
  void run_pairs(const Sample& sample, const QueryStrip* strips, const QueryGroup& group, Span blocks) {
    for (int64_t i = 0; i < states(); ++i)
      largest_[i] = P::Pairs::largest(queries_ + i * kStrip * width_, width_, rows(i), width_);
    KeyBlock packed[kMostPacked];
    float largest[kMostPacked];
    int64_t count = 0;
    for (int64_t at = blocks.begin; at < blocks.end; ++at) {
      const KeyBlock block = group.block(at);
      if (steps_of(strips, group, block, block.is_global ? sample.global : sample.keys, steps_) > 0) {
        const bool more = at + 1 < blocks.end && group.block(at + 1).keys.begin == block.keys.end;
        block_.read(sample, b_, kv_head_, false, block, more);
        block_.as_columns({keys_.data + count * block_.units(), keys_.stride});
        largest[count] = P::Pairs::largest(block_.rows(), block_.row(), kBlock, width_);
        block_.read(sample, b_, kv_head_, true, block, more);
        P::Pairs::values_to_depth(block_.rows(), block_.row(), width_, {values_.data + count * block_.units(), values_.stride},
                                  block_.ahead());
        packed[count++] = block;
      }
      if (count == packed_ || (at + 1 == blocks.end && count > 0)) {
        meet_pairs(sample, packed, largest, count);
        count = 0;
      }
    }
  }

  void meet_pairs(const Sample& sample, const KeyBlock* packed, const float* largest, int64_t count) {
    int64_t steps = 0;
    for (int64_t i = 0, pair; i < states(); i += pair) {
      pair = i % count_ + 1 < count_ ? 2 : 1;
      for (int64_t at = 0; at < count; ++at) {
        const KeyBlock& block = packed[at];
        SharedStep shared[2];
        const int64_t made = shared_steps(&strip(i), pair, block, block.is_global ? sample.global : sample.keys, shared);
        const auto tame = [&](int64_t own) { return P::Pairs::tame(scale_, problem_.channels, largest_[own], largest[at]); };
        for (int64_t e = 0; e < made; ++e) {
          const int64_t first = i + shared[e].first, last = first + shared[e].count - 1;
          pair_steps_[steps++] = {first, shared[e].count, at, shared[e].keys, shared[e].full, tame(first) && tame(last)};
        }
      }
    }
    const auto visible = [&](const PairStep& step, int64_t r) {
      const KeyBlock& block = packed[step.block];
      const Span own = sample.visible(row(step.state + r / kStrip, r % kStrip), block.is_global).common(block.keys);
      return Span{own.begin - block.keys.begin, own.end - block.keys.begin};
    };
    pairs_.run(
        {queries_, acc_, l_, m_, width_, problem_.channels, scale_}, pair_steps_, steps, keys_, values_, block_.units(),
        [&](int64_t state) { return rows(state); }, visible);
  }

  // The only state meets the block, whose keys were read, without packing them.
  void meet_few(const Sample& sample, const KeyBlock& block, bool more) {
    const Step& step = steps_[0];
    P::score_few(queries_, width_, rows(0), block_.rows(), block_.row(), block_.ahead(), scores_[0]);
    weigh(sample, block, step, 0, scores_[0]);
    block_.read(sample, b_, kv_head_, true, block, more);
    P::sum_few(weights_, rows(0), block_.rows(), block_.row(), step.keys, width_, block_.ahead(), values_, acc_);
  }

  // scores = q k^T of entry e
  void score(int64_t e, int64_t steps) {
    const Step& step = steps_[e % steps];
    const int64_t i = e / steps * count_ + step.strip;
    const typename P::Rows shape(rows(i));
    P::multiply(queries_ + i * kStrip * width_, width_, rows(i), keys_.from(step.keys.begin / 16, 0), step.keys.size() / 16,
                depth_of<P>(problem_.channels), scores_[e % 2] + step.keys.begin, kBlock, false);
  }

  const AttentionProblem& problem_;
  const AttentionOutputs& outputs_;
  float scale_;
  int64_t width_;  // channels, padded
  PackedBlock<T, P> block_;
  int64_t packed_;  // blocks that are packed together
  Panels<Unit> keys_, values_;
  Step* steps_;
  Element* weights_;
  float* scores_[2];
  Element* queries_;
  float* acc_;
  float* l_;
  float* m_;
  RowsAhead for_block_, for_item_;
  typename P::Pairs pairs_;
  PairStep* pair_steps_ = nullptr;
  float* largest_ = nullptr;  // of a state's queries
  const QueryStrip* strips_ = nullptr;
  int64_t count_ = 0, b_ = 0, kv_head_ = 0;
};

template <class T, class P>
void attention_forward(const AttentionProblem& problem, const QuerySchedule& schedule, const AttentionOutputs& outputs,
                       const Pool& threads) {
  const QueryStrip* strips = schedule.strips.data();
  const int64_t parts = static_cast<int64_t>(schedule.parts.size()),
                items = parts * schedule_copies(problem) * problem.kv_heads;
  const bool split = schedule.parts.size() > schedule.groups.size();
  Arena worker_size(nullptr);
  const int64_t saved = AttentionForward<T, P>(problem, outputs, schedule.most_strips, worker_size).saved(schedule.most_strips);
  const int64_t workers = workers_for(threads, items, schedule.items_worth_a_thread(items));
  // Items that a worker takes at once, so that it knows which is next, and yet all have work to the end. Pairs of strips take too
  // little time to hide what comes next.
  const int64_t together = P::Pairs::there ? 1 : std::clamp<int64_t>(items / (workers * 32), 1, 4);
  const Scratch scratch(workers * worker_size.used()), merged(split ? items * saved * static_cast<int64_t>(sizeof(float)) : 0);
  float* const slots = reinterpret_cast<float*>(merged.data());

  // f(forward, part, item) for every part, under every sample and key head that it stands for
  const auto for_items = [&](auto f) {
    share_tiles(threads, workers, items, together, [&](int64_t worker, auto next) {
      Arena arena(scratch.data() + worker * worker_size.used());
      AttentionForward<T, P> forward(problem, outputs, schedule.most_strips, arena);
      const typename P::Session session;
      const auto part_of = [&](int64_t item) -> const QueryPart& { return schedule.parts.data()[item / (items / parts)]; };
      const auto with_item = [&](int64_t item, auto use) {
        const int64_t copy = item % (items / parts);
        const QueryGroup& group = schedule.groups.data()[part_of(item).group];
        use(group, problem.layout.samples == 1 ? copy / problem.kv_heads : group.sample, copy % problem.kv_heads);
      };
      for (int64_t item, end; next(&item, &end);) {
        for (; item < end; ++item) {
          with_item(item,
                    [&](const QueryGroup& group, int64_t b, int64_t kv_head) { forward.start(strips, group, b, kv_head); });
          if (item + 1 < end)
            with_item(item + 1,
                      [&](const QueryGroup& group, int64_t b, int64_t kv_head) { forward.before(strips, group, b, kv_head); });
          f(forward, part_of(item), item);
        }
      }
    });
  };
  for_items([&](auto& forward, const QueryPart& part, int64_t item) {
    forward.run(strips, schedule.groups.data()[part.group], part.blocks);
    if (part.parts == 1) {
      forward.finish();
    } else {
      forward.save(slots + item * saved);
    }
  });
  if (!split) return;
  for_items([&](auto& forward, const QueryPart& part, int64_t item) {
    if (part.parts == 1 || part.part > 0) return;
    for (int64_t p = 0; p < part.parts; ++p) forward.merge(slots + (item + p * (items / parts)) * saved);
    forward.finish();
  });
}

}  // namespace
}  // namespace longreel
