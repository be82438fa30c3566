// Rows of a tensor as a product takes them.
//
// A product is out [rows, n] = x [rows, depth] y [depth, n]: x as rows, y as panels of sixteen columns. Rows of a tensor become
// the columns of y (their channels are the depth), or its depth (their channels are the columns).
#pragma once

#include "block_sparse_attention/scheduler.h"
#include "common/rows.h"
#include "common/scratch.h"
#include "common/transpose.h"

namespace longreel {
namespace {

// [panels][depth][16] units; a unit is one fp32 element, or two bf16 ones that follow one another in the depth.
template <class Unit>
struct Panels {
  Unit* data;
  int64_t stride;  // units from panel to panel

  Panels from(int64_t panel, int64_t depth_units) const { return {data + panel * stride + depth_units * 16, stride}; }
};

// The depth of products along the channels: those that there are in fp32, whole padded rows where pairs or tiles multiply.
template <class P>
constexpr int64_t depth_of(int64_t channels) {
  return P::pair == 1 ? channels : round_up(channels, 16 * P::pair);
}

// row [padded] <- channels of the tensor row, then zeros; a null row is zeros.
template <class To, class From>
inline void stage_row(const From* from, int64_t stride, int64_t channels, To* row, int64_t padded) {
  copy_row(from, stride, from == nullptr ? 0 : channels, row, padded);
}

inline void negate(float* row, int64_t count) {
  for (int64_t c = 0; c < count; ++c) row[c] = -row[c];
}
inline void negate(bf16* row, int64_t count) {
  for (int64_t c = 0; c < count; ++c) row[c].bits ^= 0x8000u;
}

// Query rows enter with the sign of the scale, so that what is left of it is never negative and keeps the order of scores.
template <class T, class Element>
inline void stage_query(const AttentionProblem& problem, int64_t b, int64_t row, int64_t head, Element* to, int64_t padded) {
  const Heads& q = problem.q;
  stage_row(static_cast<const T*>(q.data) + q.at(b, row, head), q.channel_stride, problem.channels, to, padded);
  if (problem.scale < 0) negate(to, problem.channels);
}

// The tensor that holds keys (or, with `values`, their values) of K or of G.
inline const Heads& keys_of(const AttentionProblem& problem, bool values, bool is_global) {
  const bool own = is_global && problem.own_global();
  return values ? (own ? problem.global_v : problem.v) : (own ? problem.global_k : problem.k);
}

// to [size of keys, padded]: the keys, or their values; a key that nobody may attend to is zeros. more: those behind are next.
template <class T, class Element>
inline void stage_keys(const AttentionProblem& problem, const Sample& sample, int64_t b, int64_t head, bool values,
                       bool is_global, Span keys, Element* to, int64_t padded, bool more = false) {
  const bool own = is_global && problem.own_global();
  const Heads& source = keys_of(problem, values, is_global);
  const Span may_be_visible = is_global ? sample.global : sample.keys;
  for (int64_t j = keys.begin; j < keys.end; ++j, to += padded) {
    const bool hidden = j < may_be_visible.begin || j >= may_be_visible.end;
    const int64_t row = is_global && !own && !hidden ? sample.index[j] : j;
    const T* from = hidden ? nullptr : static_cast<const T*>(source.data) + source.at(b, row, head);
    if (more && !hidden && source.channel_stride == 1) {
      constexpr int64_t line = 64 / sizeof(T);
      for (int64_t c = 0; c < problem.channels; c += line) __builtin_prefetch(from + kBlock * source.row_stride + c, 0, 2);
    }
    stage_row(from, source.channel_stride, problem.channels, to, padded);
  }
}

// Rows [16 n, depth], `row` elements apart, become the columns of n panels; those `ahead` elements behind are fetched
// meanwhile, unless 0.
template <class Element, class Unit>
inline void rows_to_columns(const Element* rows, int64_t row, int64_t depth, int64_t count, Panels<Unit> panels,
                            int64_t ahead = 0) {
  constexpr int64_t pair = sizeof(Unit) / sizeof(Element);
  for (int64_t r = 0; r < count; r += 16) {
    transpose_sixteen(rows + r * row, row * sizeof(Element), depth / pair, panels.data + r / 16 * panels.stride,
                      ahead * sizeof(Element));
  }
}

}  // namespace
}  // namespace longreel
