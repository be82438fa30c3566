// Lowers the range segments of a layout to a tile schedule, in time linear in the tiles written. Plain C++, no Python.
#pragma once

#include <cstdint>
#include <vector>

namespace longreel::layout {

// One range segment: its query row i, 0 <= i < rows, attends to K[lo + i * lo_step : hi + (i * up + carry) / over) and G[glo : ghi).
struct RangeSegment {
  int64_t sample, row, rows, lo, lo_step, hi, up, carry, over, glo, ghi;

  int64_t lo_at(int64_t i) const { return lo + i * lo_step; }
  int64_t hi_at(int64_t i) const { return hi + (i * up + carry) / over; }
  bool has_keys() const { return lo < hi_at(0); }
  bool has_global() const { return glo < ghi; }
};

// Keys [begin, end), visible to at least one row of a tile, in steps of the key tile from begin: those in
// [full_begin, full_end) are whole key tiles that every row attends to, the others need the rows' own bounds.
struct TileRange {
  int32_t begin, full_begin, full_end, end;
};

struct Tile {
  int32_t sample, row_begin, row_end, segment;  // segment: the first range segment of the tile
  TileRange keys, global;
};

// Rows [begin, end) that attend to at least one key of a key block, in steps of the query tile from begin: in
// [full_begin, full_end) they are whole query tiles that attend to every key of the block.
using QueryRange = TileRange;

// Keys (of K, or of G where is_global) whose gradient one worker sums over query ranges first_range .. last_range. KV blocks of one
// global block follow one another; their partial sums are added in that order.
struct KvBlock {
  int32_t sample, is_global, key_begin, key_end, first_range, last_range;
};

struct KvSide {
  std::vector<KvBlock> kv_blocks;
  std::vector<QueryRange> query_ranges;
};

struct TileShape {
  int64_t rows, keys;
};

// Rows of one range segment a tile, or of several that fit whole; or tiles filled across all or some borders, for fewest steps.
std::vector<Tile> query_tiles(const std::vector<RangeSegment>& segments, TileShape shape);

// keys[b], global_keys[b]: how many the sample has. block_rows: most rows a KV block of a global block sums over.
KvSide kv_blocks(const std::vector<RangeSegment>& segments, const std::vector<int64_t>& keys,
                 const std::vector<int64_t>& global_keys, TileShape shape, int64_t block_rows);

// Heavy before light in powers of two, neighbours kept together within one: workers that take the next free tile end
// together, and tiles that share keys run side by side.
std::vector<int32_t> heavy_first(const std::vector<int64_t>& costs);
int64_t cost(const Tile& tile, TileShape shape);
int64_t cost(const KvBlock& kv_block, const std::vector<QueryRange>& query_ranges, TileShape shape);

// bounds [rows of all samples, 4]: lo, hi, glo, ghi of every query row, in the order of the segments.
void fill_bounds(const std::vector<RangeSegment>& segments, int32_t* bounds);

}  // namespace longreel::layout
