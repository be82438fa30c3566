// Lowers the range segments of a layout to a tile schedule, in time linear in the tiles written. Plain C++, no Python.
#pragma once

#include <cstdint>
#include <vector>

namespace longreel::layout {

// One range segment: its query row i, 0 <= i < rows, sees K[lo + i * lo_step : hi + (i * up + carry) / over) and G[glo : ghi).
struct Range {
  int64_t sample, row, rows, lo, lo_step, hi, up, carry, over, glo, ghi;

  int64_t lo_at(int64_t i) const { return lo + i * lo_step; }
  int64_t hi_at(int64_t i) const { return hi + (i * up + carry) / over; }
  bool sees_keys() const { return lo < hi_at(0); }
  bool sees_global() const { return glo < ghi; }
};

// Keys [begin, end), seen by at least one row of a tile, in steps of the key tile from begin: those in
// [full_begin, full_end) are whole key tiles that every row sees, the others need the rows' own bounds.
struct Run {
  int32_t begin, full_begin, full_end, end;
};

struct Tile {
  int32_t sample, row_begin, row_end, range;  // range: the first range segment of the tile
  Run keys, global;
};

// Rows [begin, end) that see at least one key of a key block, in steps of the query tile from begin: in
// [full_begin, full_end) they are whole query tiles that see every key of the block.
using RowRun = Run;

// Keys (of K, or of G where is_global) whose gradient one worker sums over row runs first_run .. last_run. Units of one
// global block follow one another; their partial sums are added in that order.
struct KeyUnit {
  int32_t sample, is_global, key_begin, key_end, first_run, last_run;
};

struct KeySide {
  std::vector<KeyUnit> units;
  std::vector<RowRun> runs;
};

struct TileShape {
  int64_t rows, keys;
};

std::vector<Tile> query_tiles(const std::vector<Range>& ranges, TileShape shape);

// keys[b], global_keys[b]: how many the sample has. unit_rows: most rows a unit of a global block sums over.
KeySide key_units(const std::vector<Range>& ranges, const std::vector<int64_t>& keys, const std::vector<int64_t>& global_keys,
                  TileShape shape, int64_t unit_rows);

// Heavy before light in powers of two, neighbours kept together within one: workers that take the next free tile end
// together, and tiles that share keys run side by side.
std::vector<int32_t> heavy_first(const std::vector<int64_t>& costs);
int64_t cost(const Tile& tile, TileShape shape);
int64_t cost(const KeyUnit& unit, const std::vector<RowRun>& runs, TileShape shape);

// bounds [rows of all samples, 4]: lo, hi, glo, ghi of every query row, in the order of the ranges.
void fill_bounds(const std::vector<Range>& ranges, int32_t* bounds);

}  // namespace longreel::layout
