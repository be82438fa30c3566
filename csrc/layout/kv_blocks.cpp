#include <algorithm>
#include <utility>

#include "layout/planner.h"

namespace longreel::layout {
namespace {

int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
int64_t down_to(int64_t n, int64_t step) { return n / step * step; }

struct KeySpan {
  int64_t sample, begin, end;
};

// Rows of one range segment that attend to a key span; exact, not yet in steps of the query tile.
struct VisibleRows {
  int64_t span, begin, full_begin, full_end, end;
};

// The first row of the segment whose hi is at least `key`.
int64_t reaches(const RangeSegment& segment, int64_t key) {
  const int64_t wanted = (key - segment.hi) * segment.over - segment.carry;
  if (wanted <= 0) return 0;
  return segment.up == 0 ? segment.rows : std::min(segment.rows, (wanted + segment.up - 1) / segment.up);
}

// Rows of the segment, counted from its first, before which lo is at most `key`.
int64_t keeps(const RangeSegment& segment, int64_t key) {
  if (segment.lo > key) return 0;
  return segment.lo_step == 0 ? segment.rows : std::min(segment.rows, key - segment.lo + 1);
}

// Spans start where a segment's keys or padding start, so that no span holds keys of two frames.
std::vector<KeySpan> local_spans(const std::vector<RangeSegment>& segments, const std::vector<int64_t>& keys, int64_t step) {
  std::vector<std::vector<int64_t>> cuts(keys.size());
  for (const RangeSegment& segment : segments) {
    std::vector<int64_t>& own = cuts[segment.sample];
    const int64_t cut = segment.has_keys() ? segment.lo : segment.lo - 1;
    if (segment.lo_step == 1 && segment.has_keys()) continue;
    if (own.empty() || own.back() != cut) own.push_back(cut);
  }
  std::vector<KeySpan> spans;
  for (size_t b = 0; b < keys.size(); ++b) {
    std::vector<int64_t>& own = cuts[b];
    own.push_back(0);
    if (!std::is_sorted(own.begin(), own.end())) std::sort(own.begin(), own.end());
    own.push_back(keys[b]);
    for (size_t c = 0; c + 1 < own.size(); ++c)
      for (int64_t begin = own[c]; begin < own[c + 1]; begin += step)
        spans.push_back({int64_t(b), begin, std::min(own[c + 1], begin + step)});
  }
  return spans;
}

std::vector<KeySpan> global_spans(const std::vector<int64_t>& global_keys, int64_t step) {
  std::vector<KeySpan> spans;
  for (size_t b = 0; b < global_keys.size(); ++b)
    for (int64_t begin = 0; begin < global_keys[b]; begin += step)
      spans.push_back({int64_t(b), begin, std::min(global_keys[b], begin + step)});
  return spans;
}

// The first span of the sample that ends behind `key`.
int64_t span_with(const std::vector<KeySpan>& spans, int64_t sample, int64_t key) {
  const auto before = [sample](const KeySpan& span, int64_t key) {
    return span.sample < sample || (span.sample == sample && span.end <= key);
  };
  return std::lower_bound(spans.begin(), spans.end(), key, before) - spans.begin();
}

// Spans of G that hold some global key of the segment's rows, and those that hold no other.
struct Touched {
  int64_t first = 0, last = 0, whole_first = 0, whole_last = 0;
};

Touched touched_by(const RangeSegment& segment, const std::vector<KeySpan>& spans) {
  if (!segment.has_global()) return {};
  Touched t;
  t.first = span_with(spans, segment.sample, segment.glo);
  t.last = span_with(spans, segment.sample, segment.ghi - 1) + 1;
  t.whole_first = t.first + (spans[t.first].begin < segment.glo);
  t.whole_last = std::max(t.whole_first, t.last - (spans[t.last - 1].end > segment.ghi));
  return t;
}

std::vector<VisibleRows> visible_local(const std::vector<RangeSegment>& segments, const std::vector<KeySpan>& spans) {
  std::vector<VisibleRows> visible;
  visible.reserve(spans.size() + segments.size());
  for (const RangeSegment& segment : segments) {
    if (!segment.has_keys()) continue;
    const int64_t last_hi = segment.hi_at(segment.rows - 1);
    for (size_t b = span_with(spans, segment.sample, segment.lo); b < spans.size(); ++b) {
      const KeySpan& span = spans[b];
      if (span.sample != segment.sample || span.begin >= last_hi) break;
      const int64_t begin = reaches(segment, span.begin + 1), end = keeps(segment, span.end - 1);
      if (begin >= end) continue;
      int64_t full_begin = reaches(segment, span.end), full_end = keeps(segment, span.begin);
      if (full_begin >= full_end) full_begin = full_end = end;
      visible.push_back({int64_t(b), segment.row + begin, segment.row + full_begin, segment.row + full_end, segment.row + end});
    }
  }
  return visible;
}

// Spans that one segment after the other attends to whole stay open, and become one range when the last of them ends: the work
// is that of the ranges written, not of segments times spans.
std::vector<VisibleRows> visible_global(const std::vector<RangeSegment>& segments, const std::vector<KeySpan>& spans) {
  std::vector<VisibleRows> visible;
  std::vector<int64_t> opened(spans.size());
  int64_t first = 0, last = 0, sample = 0, row = 0;  // spans first .. last are open, up to this row of the sample
  const auto close = [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) visible.push_back({b, opened[b], opened[b], row, row});
  };
  const auto open = [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) opened[b] = row;
  };
  for (const RangeSegment& segment : segments) {
    const Touched touched = touched_by(segment, spans);
    if (segment.sample != sample) {
      close(first, last);
      first = last = 0;
      row = segment.row;
    }
    close(first, std::min(last, touched.whole_first));
    close(std::max(first, touched.whole_last), last);
    open(touched.whole_first, std::min(touched.whole_last, first));
    open(std::max(touched.whole_first, last), touched.whole_last);
    first = touched.whole_first;
    last = touched.whole_last;
    sample = segment.sample;
    row = segment.row + segment.rows;
    for (int64_t b = touched.first; b < touched.last; ++b)
      if (b < first || b >= last) visible.push_back({b, segment.row, row, row, row});
  }
  close(first, last);
  return visible;
}

// Stable: rows of a span stay in order.
std::vector<VisibleRows> by_span(std::vector<VisibleRows> visible, size_t spans, std::vector<int64_t>& first) {
  first.assign(spans + 1, 0);
  for (const VisibleRows& s : visible) ++first[s.span + 1];
  for (size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
  if (std::is_sorted(visible.begin(), visible.end(),
                     [](const VisibleRows& a, const VisibleRows& b) { return a.span < b.span; }))
    return visible;
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  std::vector<VisibleRows> sorted(visible.size());
  for (const VisibleRows& s : visible) sorted[next[s.span]++] = s;
  return sorted;
}

QueryRange stepped(const VisibleRows& s, int64_t step) {
  const int64_t full_begin = s.begin + up_to(std::max<int64_t>(0, s.full_begin - s.begin), step);
  const int64_t full_end = full_begin + down_to(std::max<int64_t>(0, s.full_end - full_begin), step);
  if (full_begin >= full_end) return {int32_t(s.begin), int32_t(s.begin), int32_t(s.begin), int32_t(s.end)};
  return {int32_t(s.begin), int32_t(full_begin), int32_t(full_end), int32_t(s.end)};
}

// One KV block a span, or several of at most block_rows rows; block_rows 0 does not split.
void append_kv_blocks(const std::vector<KeySpan>& spans, std::vector<VisibleRows> visible, bool is_global, TileShape shape,
                      int64_t block_rows, KvSide& out) {
  std::vector<int64_t> first;
  const std::vector<VisibleRows> sorted = by_span(std::move(visible), spans.size(), first);
  out.kv_blocks.reserve(out.kv_blocks.size() + spans.size());
  out.query_ranges.reserve(out.query_ranges.size() + sorted.size());
  for (size_t b = 0; b < spans.size(); ++b) {
    const auto open = [&] {
      const int32_t at = int32_t(out.query_ranges.size());
      out.kv_blocks.push_back({int32_t(spans[b].sample), is_global, int32_t(spans[b].begin), int32_t(spans[b].end), at, at});
    };
    const auto put = [&](const VisibleRows& s) {
      out.query_ranges.push_back(stepped(s, shape.rows));
      out.kv_blocks.back().last_range = int32_t(out.query_ranges.size());
    };
    open();
    int64_t room = block_rows;
    for (int64_t at = first[b]; at < first[b + 1];) {
      VisibleRows s = sorted[at++];
      // Rows that attend to the whole span and follow one another are one range.
      while (at < first[b + 1] && sorted[at].begin == s.end && s.full_end == s.end &&
             sorted[at].full_begin == sorted[at].begin) {
        s.full_end = sorted[at].full_end;
        s.end = sorted[at++].end;
      }
      while (block_rows > 0 && s.end - s.begin > room) {
        VisibleRows head = s;
        head.end = s.begin + room;
        head.full_begin = std::min(head.full_begin, head.end);
        head.full_end = std::min(head.full_end, head.end);
        if (room > 0) put(head);
        open();
        s.begin = head.end;
        s.full_begin = std::max(s.full_begin, s.begin);
        room = block_rows;
      }
      room -= s.end - s.begin;
      put(s);
    }
  }
}

}  // namespace

KvSide kv_blocks(const std::vector<RangeSegment>& segments, const std::vector<int64_t>& keys,
                 const std::vector<int64_t>& global_keys, TileShape shape, int64_t block_rows) {
  KvSide out;
  const std::vector<KeySpan> local = local_spans(segments, keys, shape.keys);
  append_kv_blocks(local, visible_local(segments, local), false, shape, 0, out);
  const std::vector<KeySpan> global = global_spans(global_keys, shape.keys);
  append_kv_blocks(global, visible_global(segments, global), true, shape, block_rows, out);
  return out;
}

int64_t cost(const KvBlock& kv_block, const std::vector<QueryRange>& query_ranges, TileShape shape) {
  int64_t steps = 0;
  for (int32_t r = kv_block.first_range; r < kv_block.last_range; ++r)
    steps += (query_ranges[r].end - query_ranges[r].begin + shape.rows - 1) / shape.rows;
  return steps;
}

}  // namespace longreel::layout
