// One block of keys in packed form. Include after packing.h.
#pragma once

#include "packing.h"

namespace longreel {
namespace {

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
