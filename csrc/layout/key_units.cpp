#include <algorithm>
#include <utility>

#include "layout/planner.h"

namespace longreel::layout {
namespace {

int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
int64_t down_to(int64_t n, int64_t step) { return n / step * step; }

struct Block {
  int64_t sample, begin, end;
};

// Rows of one range segment that see a key block; exact, not yet in steps of the query tile.
struct Seen {
  int64_t block, begin, full_begin, full_end, end;
};

// The first row of the segment whose hi is at least `key`.
int64_t reaches(const Range& range, int64_t key) {
  const int64_t wanted = (key - range.hi) * range.over - range.carry;
  if (wanted <= 0) return 0;
  return range.up == 0 ? range.rows : std::min(range.rows, (wanted + range.up - 1) / range.up);
}

// Rows of the segment, counted from its first, before which lo is at most `key`.
int64_t keeps(const Range& range, int64_t key) {
  if (range.lo > key) return 0;
  return range.lo_step == 0 ? range.rows : std::min(range.rows, key - range.lo + 1);
}

// Blocks start where a segment's keys or padding start, so that no block holds keys of two frames.
std::vector<Block> key_blocks(const std::vector<Range>& ranges, const std::vector<int64_t>& keys, int64_t step) {
  std::vector<std::vector<int64_t>> cuts(keys.size());
  for (const Range& range : ranges) {
    std::vector<int64_t>& own = cuts[range.sample];
    const int64_t cut = range.sees_keys() ? range.lo : range.lo - 1;
    if (range.lo_step == 1 && range.sees_keys()) continue;
    if (own.empty() || own.back() != cut) own.push_back(cut);
  }
  std::vector<Block> blocks;
  for (size_t b = 0; b < keys.size(); ++b) {
    std::vector<int64_t>& own = cuts[b];
    own.push_back(0);
    if (!std::is_sorted(own.begin(), own.end())) std::sort(own.begin(), own.end());
    own.push_back(keys[b]);
    for (size_t c = 0; c + 1 < own.size(); ++c)
      for (int64_t begin = own[c]; begin < own[c + 1]; begin += step)
        blocks.push_back({int64_t(b), begin, std::min(own[c + 1], begin + step)});
  }
  return blocks;
}

std::vector<Block> global_blocks(const std::vector<int64_t>& global_keys, int64_t step) {
  std::vector<Block> blocks;
  for (size_t b = 0; b < global_keys.size(); ++b)
    for (int64_t begin = 0; begin < global_keys[b]; begin += step)
      blocks.push_back({int64_t(b), begin, std::min(global_keys[b], begin + step)});
  return blocks;
}

// The first block of the sample that ends behind `key`.
int64_t block_with(const std::vector<Block>& blocks, int64_t sample, int64_t key) {
  const auto before = [sample](const Block& block, int64_t key) {
    return block.sample < sample || (block.sample == sample && block.end <= key);
  };
  return std::lower_bound(blocks.begin(), blocks.end(), key, before) - blocks.begin();
}

// Blocks of G that hold some global key of the segment's rows, and those that hold no other.
struct Touched {
  int64_t first = 0, last = 0, whole_first = 0, whole_last = 0;
};

Touched touched_by(const Range& range, const std::vector<Block>& blocks) {
  if (!range.sees_global()) return {};
  Touched t;
  t.first = block_with(blocks, range.sample, range.glo);
  t.last = block_with(blocks, range.sample, range.ghi - 1) + 1;
  t.whole_first = t.first + (blocks[t.first].begin < range.glo);
  t.whole_last = std::max(t.whole_first, t.last - (blocks[t.last - 1].end > range.ghi));
  return t;
}

std::vector<Seen> seen_keys(const std::vector<Range>& ranges, const std::vector<Block>& blocks) {
  std::vector<Seen> seen;
  seen.reserve(blocks.size() + ranges.size());
  for (const Range& range : ranges) {
    if (!range.sees_keys()) continue;
    const int64_t last_hi = range.hi_at(range.rows - 1);
    for (size_t b = block_with(blocks, range.sample, range.lo); b < blocks.size(); ++b) {
      const Block& block = blocks[b];
      if (block.sample != range.sample || block.begin >= last_hi) break;
      const int64_t begin = reaches(range, block.begin + 1), end = keeps(range, block.end - 1);
      if (begin >= end) continue;
      int64_t full_begin = reaches(range, block.end), full_end = keeps(range, block.begin);
      if (full_begin >= full_end) full_begin = full_end = end;
      seen.push_back({int64_t(b), range.row + begin, range.row + full_begin, range.row + full_end, range.row + end});
    }
  }
  return seen;
}

// Blocks that one segment after the other sees whole stay open, and become one run when the last of them ends: the work
// is that of the runs written, not of segments times blocks.
std::vector<Seen> seen_global(const std::vector<Range>& ranges, const std::vector<Block>& blocks) {
  std::vector<Seen> seen;
  std::vector<int64_t> opened(blocks.size());
  int64_t first = 0, last = 0, sample = 0, row = 0;  // blocks first .. last are open, up to this row of the sample
  const auto close = [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) seen.push_back({b, opened[b], opened[b], row, row});
  };
  const auto open = [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) opened[b] = row;
  };
  for (const Range& range : ranges) {
    const Touched touched = touched_by(range, blocks);
    if (range.sample != sample) {
      close(first, last);
      first = last = 0;
      row = range.row;
    }
    close(first, std::min(last, touched.whole_first));
    close(std::max(first, touched.whole_last), last);
    open(touched.whole_first, std::min(touched.whole_last, first));
    open(std::max(touched.whole_first, last), touched.whole_last);
    first = touched.whole_first;
    last = touched.whole_last;
    sample = range.sample;
    row = range.row + range.rows;
    for (int64_t b = touched.first; b < touched.last; ++b)
      if (b < first || b >= last) seen.push_back({b, range.row, row, row, row});
  }
  close(first, last);
  return seen;
}

// Stable: rows of a block stay in order.
std::vector<Seen> by_block(std::vector<Seen> seen, size_t blocks, std::vector<int64_t>& first) {
  first.assign(blocks + 1, 0);
  for (const Seen& s : seen) ++first[s.block + 1];
  for (size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
  if (std::is_sorted(seen.begin(), seen.end(), [](const Seen& a, const Seen& b) { return a.block < b.block; })) return seen;
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  std::vector<Seen> sorted(seen.size());
  for (const Seen& s : seen) sorted[next[s.block]++] = s;
  return sorted;
}

RowRun stepped(const Seen& s, int64_t step) {
  const int64_t full_begin = s.begin + up_to(std::max<int64_t>(0, s.full_begin - s.begin), step);
  const int64_t full_end = full_begin + down_to(std::max<int64_t>(0, s.full_end - full_begin), step);
  if (full_begin >= full_end) return {int32_t(s.begin), int32_t(s.begin), int32_t(s.begin), int32_t(s.end)};
  return {int32_t(s.begin), int32_t(full_begin), int32_t(full_end), int32_t(s.end)};
}

// One unit a block, or several of at most unit_rows rows; unit_rows 0 does not split.
void append_units(const std::vector<Block>& blocks, std::vector<Seen> seen, bool is_global, TileShape shape, int64_t unit_rows,
                  KeySide& out) {
  std::vector<int64_t> first;
  const std::vector<Seen> sorted = by_block(std::move(seen), blocks.size(), first);
  out.units.reserve(out.units.size() + blocks.size());
  out.runs.reserve(out.runs.size() + sorted.size());
  for (size_t b = 0; b < blocks.size(); ++b) {
    const auto open = [&] {
      const int32_t at = int32_t(out.runs.size());
      out.units.push_back({int32_t(blocks[b].sample), is_global, int32_t(blocks[b].begin), int32_t(blocks[b].end), at, at});
    };
    const auto put = [&](const Seen& s) {
      out.runs.push_back(stepped(s, shape.rows));
      out.units.back().last_run = int32_t(out.runs.size());
    };
    open();
    int64_t room = unit_rows;
    for (int64_t at = first[b]; at < first[b + 1];) {
      Seen s = sorted[at++];
      // Rows that see the whole block and follow one another are one run.
      while (at < first[b + 1] && sorted[at].begin == s.end && s.full_end == s.end &&
             sorted[at].full_begin == sorted[at].begin) {
        s.full_end = sorted[at].full_end;
        s.end = sorted[at++].end;
      }
      while (unit_rows > 0 && s.end - s.begin > room) {
        Seen head = s;
        head.end = s.begin + room;
        head.full_begin = std::min(head.full_begin, head.end);
        head.full_end = std::min(head.full_end, head.end);
        if (room > 0) put(head);
        open();
        s.begin = head.end;
        s.full_begin = std::max(s.full_begin, s.begin);
        room = unit_rows;
      }
      room -= s.end - s.begin;
      put(s);
    }
  }
}

}  // namespace

KeySide key_units(const std::vector<Range>& ranges, const std::vector<int64_t>& keys, const std::vector<int64_t>& global_keys,
                  TileShape shape, int64_t unit_rows) {
  KeySide out;
  const std::vector<Block> near = key_blocks(ranges, keys, shape.keys);
  append_units(near, seen_keys(ranges, near), false, shape, 0, out);
  const std::vector<Block> far = global_blocks(global_keys, shape.keys);
  append_units(far, seen_global(ranges, far), true, shape, unit_rows, out);
  return out;
}

int64_t cost(const KeyUnit& unit, const std::vector<RowRun>& runs, TileShape shape) {
  int64_t steps = 0;
  for (int32_t r = unit.first_run; r < unit.last_run; ++r) steps += (runs[r].end - runs[r].begin + shape.rows - 1) / shape.rows;
  return steps;
}

}  // namespace longreel::layout
