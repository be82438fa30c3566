// How the plan becomes work: what shares packed keys (or queries) goes to one worker. Depends on shapes alone, never on the
// number of threads, because sums follow it.
#pragma once

#include <algorithm>
#include <vector>

#include "block_sparse_attention/block_sparse_attention.h"

namespace longreel {

constexpr int64_t kStrip = 16;  // rows of a product: query rows, or keys where the gradient of keys is summed
constexpr int64_t kLanes = 16;  // keys, or query rows, are met in these multiples
constexpr int64_t kBlock = 64;  // keys, or query rows, packed together for the strips that meet them

struct Span {
  int64_t begin = 0, end = 0;

  LONGREEL_INLINE bool empty() const { return begin >= end; }
  LONGREEL_INLINE int64_t size() const { return end - begin; }
  LONGREEL_INLINE Span with(Span other) const {
    return {begin < other.begin ? begin : other.begin, end > other.end ? end : other.end};
  }
  LONGREEL_INLINE Span common(Span other) const {
    return {begin > other.begin ? begin : other.begin, end < other.end ? end : other.end};
  }
};

// What of the layout belongs to sample b of the batch.
struct Sample {
  const int32_t* bounds;  // [Sq, columns]
  int64_t columns;
  const int32_t* index;  // [G]
  Span keys, global;     // that may be visible at all: from start on, without padding

  // The keys of K, or of G, that the row attends to.
  LONGREEL_INLINE Span visible(int64_t row, bool is_global) const {
    const int32_t* at = bounds + row * columns + (is_global ? 2 : 0);
    return Span{at[0], at[1]}.common(is_global ? global : keys);
  }
};

Sample sample_of(const AttentionProblem& problem, int64_t b);

// A schedule of one sample is walked once for every b.
LONGREEL_INLINE int64_t schedule_copies(const AttentionProblem& problem) {
  return problem.layout.samples == 1 ? problem.batch : 1;
}

// At most sixteen query rows of a tile.
struct QueryStrip {
  int64_t row, rows;
  layout::TileRange keys, global;
};

struct KeyBlock {
  bool is_global;
  Span keys;
};

// Strips, one behind the other, whose keys overlap.
struct QueryGroup {
  int64_t sample;
  Span strips, keys, global;

  LONGREEL_INLINE int64_t key_blocks() const { return ceil_div(keys.size(), kBlock); }
  LONGREEL_INLINE int64_t blocks() const { return key_blocks() + ceil_div(global.size(), kBlock); }
  // Block i of K's, then of G's.
  LONGREEL_INLINE KeyBlock block(int64_t i) const {
    const bool is_global = i >= key_blocks();
    const Span all = is_global ? global : keys;
    const int64_t begin = all.begin + (is_global ? i - key_blocks() : i) * kBlock;
    return {is_global, {begin, begin + kBlock < all.end ? begin + kBlock : all.end}};
  }
};

// Some blocks of a group; `part` of `parts`.
struct QueryPart {
  int64_t group, part, parts;
  Span blocks;
};

struct QuerySchedule {
  std::vector<QueryStrip> strips;
  std::vector<QueryGroup> groups;
  std::vector<QueryPart> parts;  // heavy before light; the parts of a group follow one another
  int64_t most_strips = 0;       // of a group
  int64_t multiplications = 0;   // of the scores

  // Items of equal work that make it worth waking a thread.
  LONGREEL_INLINE int64_t items_worth_a_thread(int64_t items) const {
    constexpr int64_t worth = 1 << 18;
    return multiplications == 0 ? items : ceil_div(worth * items, multiplications);
  }
};

// In the forward pass, long keys of few rows may become several parts.
QuerySchedule forward_schedule(const AttentionProblem& problem);
QuerySchedule backward_schedule(const AttentionProblem& problem);

// Strip `strip` of the group meets these keys, counted from the block's first, in multiples of kLanes; full: all rows attend to all
// of them.
struct Step {
  int64_t strip;
  Span keys;
  bool full;
};

// Steps of the strips that attend to a key of the block; returns how many.
int64_t steps_of(const QueryStrip* strips, const QueryGroup& group, const KeyBlock& block, Span may_be_visible, Step* steps);

// Fewer states under a key head than that meet their keys one by one: packing is most of their work.
constexpr int64_t kLeastPaired = 8;

// States of a group: its strips under each head, or, of one strip alone, sixteen rows of all heads after one another.
int64_t states_of(const QueryStrip* strips, int64_t count, int64_t heads);

// What one strip, or two behind one another, meet of the block, in multiples of 32.
struct SharedStep {
  int64_t first, count;  // of these strips
  Span keys;
  bool full;
};

// At most two: strips go together where they attend to much the same, and one that attends to nothing is left out. Returns how many.
int64_t shared_steps(const QueryStrip* strips, int64_t count, const KeyBlock& block, Span may_be_visible, SharedStep* steps);

// (query row, key) pairs that the forward pass multiplies for one head, masked lanes among them, over all samples of the layout.
// paired: strips meet their keys by twos where there are enough of them.
int64_t executed_pairs(const AttentionProblem& problem, bool paired);

// KV blocks, one behind the other, of one sample, all of K or blocks of G.
struct KvGroup {
  int64_t sample;
  bool is_global;
  Span kv_blocks;
};

struct KvSchedule {
  std::vector<KvGroup> global, keys;         // heavy before light
  int64_t most_blocks = 0, most_strips = 0;  // of a group
  std::vector<int64_t> row_of;               // [kv_blocks + 1]: rows of G's sums before the KV block's
  std::vector<Span> blocks_of;               // [samples, G]: the KV blocks that sum the gradient of a global key
  std::vector<int32_t> place;                // [index_samples, Sk]: where a key stands in G, or -1
  std::vector<int64_t> covered;              // [samples]: keys of K that some KV block has
};

KvSchedule kv_schedule(const AttentionProblem& problem);

}  // namespace longreel
