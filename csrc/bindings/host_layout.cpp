// The layout planner of longreel/_host.so. What each call reads is checked here: nothing behind it goes out of bounds.
#include <cstring>
#include <string>
#include <vector>

#include "bindings/host_answer.h"
#include "block_sparse_attention/scheduler.h"
#include "layout/planner.h"

namespace plan = longreel::layout;
using longreel::host::Answer;
using longreel::host::answered;
using longreel::host::give;

namespace {

constexpr int64_t kMost = (int64_t(1) << 31) - 1;  // of rows and keys of a sample: what is written of them is int32

bool within(int64_t n, int64_t least, int64_t most) { return least <= n && n <= most; }

void refuse(const char* table, size_t row, const char* why) {
  throw std::invalid_argument(std::string(table) + " row " + std::to_string(row) + ": " + why);
}

// The one check of what the planner reads: behind it nothing goes out of bounds, divides by zero or counts beyond 64 bits.
void check(const plan::RangeSegment& segment, size_t row) {
  const auto small = [](int64_t n) { return within(n, 0, kMost); };
  if (!small(segment.sample) || !small(segment.row) || !small(segment.glo) || !small(segment.ghi))
    refuse("ranges", row, "out of 0 .. 2^31 - 1");
  if (!within(segment.rows, 1, kMost)) refuse("ranges", row, "it has no rows");
  if (segment.row > kMost - segment.rows) refuse("ranges", row, "its last row is beyond 2^31 - 1");
  if (!within(segment.over, 1, kMost)) refuse("ranges", row, "its steps are divided by less than 1");
  if (!within(segment.lo_step, 0, 1) || !small(segment.up) || !within(segment.carry, 0, segment.over))
    refuse("ranges", row, "its steps");
  if (!small(segment.lo) || !small(segment.hi) || segment.hi_at(segment.rows - 1) > kMost) refuse("ranges", row, "its keys");
  if (!segment.has_keys() && segment.lo < 1) refuse("ranges", row, "rows that attend to no key stand behind one");
}

// Keys that the table's rows attend to are there.
void check_keys(const std::vector<plan::RangeSegment>& segments, const std::vector<int64_t>& keys,
                const std::vector<int64_t>& global_keys) {
  if (keys.size() != global_keys.size()) throw std::invalid_argument("keys and global_keys have one number a sample");
  for (size_t b = 0; b < keys.size(); ++b)
    if (!within(keys[b], 0, kMost) || !within(global_keys[b], 0, kMost)) refuse("keys", b, "out of 0 .. 2^31 - 1");
  for (size_t r = 0; r < segments.size(); ++r) {
    const plan::RangeSegment& segment = segments[r];
    if (segment.sample >= int64_t(keys.size())) refuse("ranges", r, "there is no such sample");
    const int64_t last = segment.has_keys() ? segment.hi_at(segment.rows - 1) : segment.lo - 1;
    if (last > keys[segment.sample]) refuse("ranges", r, "its rows attend to keys that are not there");
    if (segment.has_global() && segment.ghi > global_keys[segment.sample])
      refuse("ranges", r, "its rows attend to global keys that are not there");
  }
}

// ranges: int64 [count, 11].
std::vector<plan::RangeSegment> read_ranges(const int64_t* ranges, int64_t count) {
  std::vector<plan::RangeSegment> segments(count);
  if (count) std::memcpy(segments.data(), ranges, segments.size() * sizeof(plan::RangeSegment));
  for (size_t r = 0; r < segments.size(); ++r) check(segments[r], r);
  return segments;
}

plan::TileShape read_shape(int64_t tile_rows, int64_t tile_keys) {
  if (!within(tile_rows, 1, kMost + 1) || !within(tile_keys, 1, kMost + 1))
    throw std::invalid_argument("a tile has at least 1 row and 1 key, at most 2^31");
  return {tile_rows, tile_keys};
}

int64_t multiplied_pairs(const int32_t* tiles, const int32_t* order, int64_t count, int64_t samples, int64_t queries,
                         int64_t heads, int64_t kv_heads, int64_t channels, bool paired) {
  for (int64_t n : {samples, queries, heads, kv_heads, channels})
    if (!within(n, 1, kMost))
      throw std::invalid_argument("samples, queries, heads, kv_heads and channels are at least 1, below 2^31");
  if (heads % kv_heads != 0) throw std::invalid_argument("heads is a multiple of kv_heads");
  for (int64_t t = 0; t < count; ++t) {
    if (!within(order[t], 0, count - 1)) refuse("order", t, "there is no such tile");
    const plan::Tile& tile = reinterpret_cast<const plan::Tile*>(tiles)[t];
    if (!within(tile.sample, 0, samples - 1) || !within(tile.row_begin, 0, tile.row_end) || tile.row_end > queries)
      refuse("tiles", t, "its rows are not there");
    for (const plan::TileRange& range : {tile.keys, tile.global})
      if (!(0 <= range.begin && range.begin <= range.full_begin && range.full_begin <= range.full_end &&
            range.full_end <= range.end))
        refuse("tiles", t, "a range is not begin, full_begin, full_end, end in order");
  }
  longreel::AttentionProblem problem{};
  problem.batch = problem.layout.samples = samples;
  problem.queries = queries;
  problem.heads = heads;
  problem.kv_heads = kv_heads;
  problem.channels = channels;
  problem.layout.tiles = reinterpret_cast<const plan::Tile*>(tiles);
  problem.layout.order = order;
  problem.layout.tile_count = count;
  return longreel::executed_pairs(problem, paired);
}

}  // namespace

// Range segments int64 [count, 11] -> tiles int32 [T, 12] and their order int32 [T], heavy first.
LONGREEL_HOST int32_t longreel_query_tiles(Answer* answer, const int64_t* ranges, int64_t count, int64_t tile_rows,
                                           int64_t tile_keys) {
  return answered(answer, [&] {
    const auto segments = read_ranges(ranges, count);
    const plan::TileShape shape = read_shape(tile_rows, tile_keys);
    const auto tiles = plan::query_tiles(segments, shape);
    std::vector<int64_t> costs;
    costs.reserve(tiles.size());
    for (const plan::Tile& tile : tiles) costs.push_back(plan::cost(tile, shape));
    give(answer, 0, tiles);
    give(answer, 1, plan::heavy_first(costs));
  });
}

// Range segments; keys and global_keys of every sample -> kv_blocks int32 [U, 6], query_ranges int32 [N, 4] and kv_order
// int32 [U], heavy first.
LONGREEL_HOST int32_t longreel_kv_blocks(Answer* answer, const int64_t* ranges, int64_t count, const int64_t* keys,
                                         const int64_t* global_keys, int64_t samples, int64_t tile_rows, int64_t tile_keys,
                                         int64_t block_rows) {
  return answered(answer, [&] {
    const auto segments = read_ranges(ranges, count);
    const plan::TileShape shape = read_shape(tile_rows, tile_keys);
    const std::vector<int64_t> local(keys, keys + samples), global(global_keys, global_keys + samples);
    check_keys(segments, local, global);
    if (!within(block_rows, 0, kMost)) throw std::invalid_argument("block_rows is 0 to 2^31 - 1");
    const plan::KvSide side = plan::kv_blocks(segments, local, global, shape, block_rows);
    std::vector<int64_t> costs;
    costs.reserve(side.kv_blocks.size());
    for (const plan::KvBlock& kv_block : side.kv_blocks) costs.push_back(plan::cost(kv_block, side.query_ranges, shape));
    give(answer, 0, side.kv_blocks);
    give(answer, 1, side.query_ranges);
    give(answer, 2, plan::heavy_first(costs));
  });
}

// Range segments -> int32 [rows, 4]: lo, hi, glo, ghi of every row. Without `bounds`, number: how many rows there are.
LONGREEL_HOST int32_t longreel_row_bounds(Answer* answer, const int64_t* ranges, int64_t count, int32_t* bounds) {
  return answered(answer, [&] {
    const auto segments = read_ranges(ranges, count);
    for (const plan::RangeSegment& segment : segments) answer->number += segment.rows;
    if (bounds) plan::fill_bounds(segments, bounds);
  });
}

// number: (query row, key) pairs that the CPU's attention multiplies for one head over all samples, masked lanes among them.
// tiles: int32 [count, 12], order: int32 [count]; paired: as the AMX kernel, which takes strips by twos.
LONGREEL_HOST int32_t longreel_executed_pairs(Answer* answer, const int32_t* tiles, const int32_t* order, int64_t count,
                                              int64_t samples, int64_t queries, int64_t heads, int64_t kv_heads,
                                              int64_t channels, int64_t paired) {
  return answered(answer, [&] {
    answer->number = multiplied_pairs(tiles, order, count, samples, queries, heads, kv_heads, channels, paired != 0);
  });
}
