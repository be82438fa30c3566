// One block of keys in packed form.
#pragma once

#include <type_traits>

#include "block_sparse_attention/packing.h"

namespace longreel {
namespace {

// Keys of a block as columns (for scores, and values as columns for their gradient) or as depth (for sums over keys).
template <class T, class P>
class PackedBlock {
 public:
  using Element = typename P::Element;
  using Unit = typename P::Unit;

  PackedBlock(const AttentionProblem& problem, Arena& arena)
      : problem_(problem), depth_(round_up(problem.channels, 16 * P::pair)), staged_(arena.take<Element>(kBlock * depth_)) {}

  int64_t depth() const { return depth_; }

  int64_t units() const { return kBlock * depth_ / P::pair; }
  Panels<Unit> columns(Arena& arena, int64_t blocks = 1) const {
    return {arena.take<Unit>(blocks * units()), depth_ / P::pair * 16};
  }
  Panels<Unit> sums(Arena& arena, int64_t blocks = 1) const {
    return {arena.take<Unit>(blocks * units()), kBlock / P::pair * 16};
  }

  // Takes keys or values of the block, in place where kBlock rows stand as products take them; else the others are zeros.
  // more: the block behind is next.
  void read(const Sample& sample, int64_t b, int64_t kv_head, bool values, const KeyBlock& block, bool more) {
    ahead_ = 0;
    if (in_place(sample, b, kv_head, values, block)) {
      if (more) ahead_ = kBlock * row_;
      return;
    }
    stage_keys<T>(problem_, sample, b, kv_head, values, block.is_global, block.keys, staged_, depth_, more && !block.is_global);
    std::fill(staged_ + block.keys.size() * depth_, staged_ + kBlock * depth_, Element{});
    rows_ = staged_;
    row_ = depth_;
  }
  // What was read, where it stands, and how far behind it the next block does (0: nowhere).
  const Element* rows() const { return rows_; }
  int64_t row() const { return row_; }
  int64_t ahead() const { return ahead_; }
  void as_columns(Panels<Unit> panels) const { rows_to_columns(rows_, row_, depth_, kBlock, panels, ahead_); }
  void as_depth(Panels<Unit> panels) const { P::rows_to_depth(rows_, row_, depth_, kBlock, panels, ahead_); }

 private:
  bool in_place(const Sample& sample, int64_t b, int64_t kv_head, bool values, const KeyBlock& block) {
    if constexpr (std::is_same_v<T, Element>) {
      const Heads& source = keys_of(problem_, values, block.is_global);
      const Span may_be_visible = block.is_global ? sample.global : sample.keys;
      if (block.is_global && !problem_.own_global()) return false;
      if (source.channel_stride != 1 || problem_.channels != depth_ || block.keys.size() != kBlock) return false;
      if (block.keys.common(may_be_visible).size() != kBlock) return false;
      rows_ = static_cast<const T*>(source.data) + source.at(b, block.keys.begin, kv_head);
      row_ = source.row_stride;
      return true;
    }
    return false;
  }

  const AttentionProblem& problem_;
  int64_t depth_;
  Element* staged_;
  const Element* rows_ = nullptr;
  int64_t row_ = 0, ahead_ = 0;
};

}  // namespace
}  // namespace longreel
