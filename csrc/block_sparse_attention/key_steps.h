// What query strips do with one block of keys: which of them meet it, and the block in packed form. Include after packing.h.
#pragma once

#include "packing.h"

namespace longreel {
namespace {

// Strip `strip` of the group meets these keys, counted from the block's first in whole multiples; full: all rows see all of them.
struct Step {
  int64_t strip;
  Span keys;
  bool full;
};

// Steps of the strips that see a key of the block; returns how many.
inline int64_t steps_of(const QueryStrip* strips, const QueryGroup& group, const KeyBlock& block, Span may_be_seen,
                        int64_t multiple, Step* steps) {
  int64_t count = 0;
  for (int64_t s = group.strips.begin; s < group.strips.end; ++s) {
    const layout::Run& run = block.is_global ? strips[s].global : strips[s].keys;
    const Span met = Span{run.begin, run.end}.common(block.keys);
    if (met.empty()) continue;
    const int64_t begin = (met.begin - block.keys.begin) / multiple * multiple;
    const int64_t end = round_up(met.end - block.keys.begin, multiple);
    const Span whole = {block.keys.begin + begin, block.keys.begin + end};
    const Span full = Span{run.full_begin, run.full_end}.common(may_be_seen);
    steps[count++] = {s - group.strips.begin, {begin, end}, full.begin <= whole.begin && whole.end <= full.end};
  }
  return count;
}

// Keys of a block as columns (for scores, and values as columns for their gradient) or as depth (for sums over keys).
template <class T, class P>
class PackedBlock {
 public:
  using Element = typename P::Element;
  using Unit = typename P::Unit;

  PackedBlock(const AttentionProblem& problem, Arena& arena)
      : problem_(problem),
        depth_(round_up(problem.channels, 16 * P::pair)),
        rows_(arena.take<Element>(kBlock * depth_)) {}

  int64_t depth() const { return depth_; }

  Panels<Unit> columns(Arena& arena) const { return {arena.take<Unit>(kBlock * depth_ / P::pair), depth_ / P::pair * 16}; }
  Panels<Unit> sums(Arena& arena) const { return {arena.take<Unit>(kBlock * depth_ / P::pair), kBlock / P::pair * 16}; }

  // Reads keys or values of the block; the others of its kBlock rows are zeros.
  void read(const Sample& sample, int64_t b, int64_t kv_head, bool values, const KeyBlock& block) {
    stage_keys<T>(problem_, sample, b, kv_head, values, block.is_global, block.keys, rows_, depth_);
    std::fill(rows_ + block.keys.size() * depth_, rows_ + kBlock * depth_, Element{});
  }
  void as_columns(Panels<Unit> panels) const { rows_to_columns(rows_, depth_, kBlock, panels); }
  void as_depth(Panels<Unit> panels) const { P::rows_to_depth(rows_, depth_, kBlock, panels); }

 private:
  const AttentionProblem& problem_;
  int64_t depth_;
  Element* rows_;
};

}  // namespace
}  // namespace longreel
