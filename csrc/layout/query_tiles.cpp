#include <algorithm>
#include <limits>
#include <utility>

#include "layout/planner.h"

namespace longreel::layout {
namespace {

int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
int64_t down_to(int64_t n, int64_t step) { return n / step * step; }

// What the rows of a tile attend to together (begin .. end), and every one of them (all_begin .. all_end).
struct Union {
  int64_t begin = std::numeric_limits<int64_t>::max(), end = 0;
  int64_t all_begin = 0, all_end = std::numeric_limits<int64_t>::max();

  bool empty() const { return begin >= end; }
  bool apart_from(int64_t first, int64_t last) const { return !empty() && first < last && (first > end || last < begin); }
  void add(int64_t first_begin, int64_t last_end, int64_t last_begin, int64_t first_end) {
    const bool some = first_begin < first_end;
    all_begin = std::max(all_begin, last_begin);
    all_end = std::min(all_end, some ? first_end : int64_t(0));
    if (!some) return;
    begin = std::min(begin, first_begin);
    end = std::max(end, last_end);
  }
  TileRange stepped(int64_t step) const {
    if (empty()) return {0, 0, 0, 0};
    const int64_t full_begin = begin + up_to(all_begin - begin, step);
    const int64_t full_end = full_begin + down_to(std::max<int64_t>(0, all_end - full_begin), step);
    if (full_begin >= full_end) return {int32_t(begin), int32_t(begin), int32_t(begin), int32_t(end)};
    return {int32_t(begin), int32_t(full_begin), int32_t(full_end), int32_t(end)};
  }
};

// The CPU's strips have fewer rows and multiply no more keys than their rows attend to: borders cost them nothing.
constexpr int64_t kLeastAcross = 17;

// Range segments whose rows are filled into tiles together before a tile stops at a border again: three frames of 145 rows
// are nearly seven tiles of 64. 0: short ones share a tile whole.
constexpr int64_t kNone = 0, kAll = std::numeric_limits<int64_t>::max();
constexpr int64_t kTogether[] = {kNone, kAll, 2, 3, 5, 7};

// A tile that still grows: part of one range segment, or several short ones whole; across borders, parts of neighbours.
struct OpenTile {
  int64_t sample = 0, row = 0, rows = 0, segment = 0;
  Union keys, global;

  // Rows from .. to of `next` too.
  bool takes(const RangeSegment& next, int64_t from, int64_t to, int64_t most) const {
    const int64_t lo = next.lo_at(from);
    return rows > 0 && sample == next.sample && rows + to - from <= most &&
           !keys.apart_from(lo, next.has_keys() ? next.hi_at(to - 1) : lo) && !global.apart_from(next.glo, next.ghi);
  }
  void add(const RangeSegment& next, int64_t index, int64_t from, int64_t to) {
    if (rows == 0) {
      sample = next.sample;
      row = next.row + from;
      segment = index;
    }
    rows += to - from;
    keys.add(next.lo_at(from), next.hi_at(to - 1), next.lo_at(to - 1), next.hi_at(from));
    global.add(next.glo, next.ghi, next.glo, next.ghi);
  }
  Tile closed(int64_t step) const {
    return {int32_t(sample), int32_t(row), int32_t(row + rows), int32_t(segment), keys.stepped(step), global.stepped(step)};
  }
};

std::vector<Tile> tiles_of(const std::vector<RangeSegment>& segments, TileShape shape, int64_t together) {
  const bool across = together != kNone;
  std::vector<Tile> tiles;
  OpenTile open;
  const auto close = [&] {
    if (open.rows > 0) tiles.push_back(open.closed(shape.keys));
    open = OpenTile();
  };
  for (size_t r = 0; r < segments.size(); ++r) {
    const RangeSegment& segment = segments[r];
    int64_t from = 0;
    if (across && int64_t(r) % together == 0) close();
    if (across && open.rows > 0) {
      const int64_t to = std::min(segment.rows, shape.rows - open.rows);
      if (open.takes(segment, 0, to, shape.rows)) {
        open.add(segment, int64_t(r), 0, to);
        from = to;
      }
      if (from < segment.rows || open.rows == shape.rows) close();
    } else if (!open.takes(segment, 0, segment.rows, shape.rows)) {
      close();
    }
    for (; from < segment.rows; from += shape.rows) {
      open.add(segment, int64_t(r), from, std::min(segment.rows, from + shape.rows));
      if (across ? open.rows == shape.rows : segment.rows > shape.rows) close();
    }
  }
  close();
  return tiles;
}

}  // namespace

std::vector<Tile> query_tiles(const std::vector<RangeSegment>& segments, TileShape shape) {
  std::vector<Tile> best;
  int64_t least = kAll;
  for (const int64_t together : kTogether) {
    std::vector<Tile> tiles = tiles_of(segments, shape, together);
    int64_t steps = 0;
    for (const Tile& tile : tiles) steps += cost(tile, shape);
    if (steps < least) {
      least = steps;
      best = std::move(tiles);
    }
    if (shape.rows < kLeastAcross) break;
  }
  return best;
}

int64_t cost(const Tile& tile, TileShape shape) {
  const auto steps = [&](const TileRange& range) { return (range.end - range.begin + shape.keys - 1) / shape.keys; };
  return steps(tile.keys) + steps(tile.global);
}

std::vector<int32_t> heavy_first(const std::vector<int64_t>& costs) {
  const auto bucket = [](int64_t cost) {
    int bits = 0;
    for (; cost > 0; cost >>= 1) ++bits;
    return 63 - bits;
  };
  std::vector<int64_t> next(65, 0);
  for (int64_t cost : costs) ++next[bucket(cost) + 1];
  for (size_t i = 1; i < next.size(); ++i) next[i] += next[i - 1];
  std::vector<int32_t> order(costs.size());
  for (size_t i = 0; i < costs.size(); ++i) order[next[bucket(costs[i])]++] = int32_t(i);
  return order;
}

void fill_bounds(const std::vector<RangeSegment>& segments, int32_t* bounds) {
  for (const RangeSegment& segment : segments) {
    int64_t lo = segment.lo, hi = segment.hi + segment.carry / segment.over, rest = segment.carry % segment.over;
    const int64_t whole = segment.up / segment.over, part = segment.up % segment.over;
    for (int64_t i = 0; i < segment.rows; ++i, bounds += 4) {
      bounds[0] = int32_t(lo);
      bounds[1] = int32_t(hi);
      bounds[2] = int32_t(segment.glo);
      bounds[3] = int32_t(segment.ghi);
      lo += segment.lo_step;
      hi += whole;
      rest += part;
      if (rest >= segment.over) {
        rest -= segment.over;
        ++hi;
      }
    }
  }
}

}  // namespace longreel::layout
