#include "block_sparse_attention/scheduler.h"

#include <numeric>

namespace longreel {
namespace {

// Work items that keep many threads busy: where there are fewer, groups are made smaller, then split.
constexpr int64_t kItems = 32;
// Blocks that are worth a part of their own.
constexpr int64_t kPartBlocks = 16;

Span span_of(const layout::TileRange& range) { return {range.begin, range.end}; }

bool overlaps(Span all, Span next) { return all.empty() || next.empty() || !all.common(next).empty(); }

void extend(Span& all, Span next) {
  if (!next.empty()) all = all.empty() ? next : all.with(next);
}

void add_strips(const layout::Tile& tile, std::vector<QueryStrip>& strips) {
  for (int64_t row = tile.row_begin; row < tile.row_end; row += kStrip) {
    strips.push_back({row, std::min(kStrip, tile.row_end - row), tile.keys, tile.global});
  }
}

int64_t strips_in(int64_t rows) { return ceil_div(rows, kStrip); }

// Strips whose rows and sums, `tensors` fp32 arrays of [16, D] each, stay in a core's second cache.
int64_t most_strips(const AttentionProblem& problem, int64_t tensors) {
  constexpr int64_t cache = 768 << 10;
  const int64_t bytes = kStrip * round_up(problem.channels, 32) * tensors * static_cast<int64_t>(sizeof(float));
  return std::clamp<int64_t>(cache / std::max<int64_t>(1, bytes), 1, 64);
}

// Indices of groups, those first whose first member `order` names first. groups_of: the groups of a member.
std::vector<int64_t> heavy_first(const int32_t* order, const std::vector<Span>& groups_of, size_t groups) {
  std::vector<int64_t> rank(groups, static_cast<int64_t>(groups_of.size())), result(groups);
  for (int64_t i = static_cast<int64_t>(groups_of.size()) - 1; i >= 0; --i) {
    const Span own = groups_of[order[i]];
    for (int64_t g = own.begin; g < own.end; ++g) rank[g] = i;
  }
  std::iota(result.begin(), result.end(), 0);
  std::sort(result.begin(), result.end(), [&](int64_t a, int64_t b) { return rank[a] != rank[b] ? rank[a] < rank[b] : a < b; });
  return result;
}

// most: strips that a worker has room for.
QuerySchedule query_schedule(const AttentionProblem& problem, int64_t most, bool split) {
  const AttentionLayout& layout = problem.layout;
  QuerySchedule schedule;
  int64_t total = 0;
  for (int64_t t = 0; t < layout.tile_count; ++t) total += strips_in(layout.tiles[t].row_end - layout.tiles[t].row_begin);
  schedule.strips.reserve(total);
  const int64_t copies = schedule_copies(problem) * problem.kv_heads;
  most = std::clamp<int64_t>(total * copies / kItems, std::min<int64_t>(4, most), most);

  std::vector<Span> groups_of(layout.tile_count);
  for (int64_t t = 0; t < layout.tile_count; ++t) {
    const layout::Tile& tile = layout.tiles[t];
    const int64_t first = schedule.strips.size();
    add_strips(tile, schedule.strips);
    for (int64_t s = first; s < static_cast<int64_t>(schedule.strips.size()); ++s) {
      const QueryStrip& strip = schedule.strips[s];
      const bool joins = !schedule.groups.empty() && schedule.groups.back().sample == tile.sample &&
                         schedule.groups.back().strips.size() < most &&
                         overlaps(schedule.groups.back().keys, span_of(strip.keys)) &&
                         overlaps(schedule.groups.back().global, span_of(strip.global));
      if (!joins) schedule.groups.push_back({tile.sample, {s, s}, {}, {}});
      QueryGroup& group = schedule.groups.back();
      group.strips.end = s + 1;
      extend(group.keys, span_of(strip.keys));
      extend(group.global, span_of(strip.global));
      const int64_t own = schedule.groups.size();
      extend(groups_of[t], {own - 1, own});
    }
  }
  for (const QueryGroup& group : schedule.groups) schedule.most_strips = std::max(schedule.most_strips, group.strips.size());
  for (const QueryStrip& strip : schedule.strips) {
    schedule.multiplications += strip.rows * (span_of(strip.keys).size() + span_of(strip.global).size());
  }
  schedule.multiplications *= schedule_copies(problem) * problem.heads * problem.channels;

  const int64_t items = static_cast<int64_t>(schedule.groups.size()) * copies;
  const int64_t wanted = split ? ceil_div(kItems, std::max<int64_t>(1, items)) : 1;
  for (int64_t g : heavy_first(layout.order, groups_of, schedule.groups.size())) {
    const int64_t blocks = schedule.groups[g].blocks(), parts = std::clamp<int64_t>(blocks / kPartBlocks, 1, wanted);
    for (int64_t p = 0; p < parts; ++p) schedule.parts.push_back({g, p, parts, {blocks * p / parts, blocks * (p + 1) / parts}});
  }
  return schedule;
}

}  // namespace

Sample sample_of(const AttentionProblem& problem, int64_t b) {
  const AttentionLayout& layout = problem.layout;
  const int64_t start = layout.start[layout.start_samples == 1 ? 0 : b];
  Sample sample;
  sample.columns = layout.bounds_columns;
  sample.bounds = layout.bounds + (layout.samples == 1 ? 0 : b) * problem.queries * sample.columns;
  sample.keys = {start, problem.keys};
  if (layout.global_index == nullptr) {
    sample.index = nullptr;
    sample.global = {0, problem.global_keys};
    return sample;
  }
  sample.index = layout.global_index + (layout.index_samples == 1 ? 0 : b) * problem.global_keys;
  const int32_t* pads =
      std::partition_point(sample.index, sample.index + problem.global_keys, [](int32_t key) { return key >= 0; });
  const int32_t* first = std::lower_bound(sample.index, pads, start);
  sample.global = {first - sample.index, pads - sample.index};
  return sample;
}

QuerySchedule forward_schedule(const AttentionProblem& problem) {
  return query_schedule(problem, most_strips(problem, 2 * problem.group()), true);
}

QuerySchedule backward_schedule(const AttentionProblem& problem) {
  return query_schedule(problem, most_strips(problem, 4 * problem.group()), false);
}

int64_t steps_of(const QueryStrip* strips, const QueryGroup& group, const KeyBlock& block, Span may_be_visible, Step* steps) {
  int64_t count = 0;
  for (int64_t s = group.strips.begin; s < group.strips.end; ++s) {
    const layout::TileRange& range = block.is_global ? strips[s].global : strips[s].keys;
    const Span met = span_of(range).common(block.keys);
    if (met.empty()) continue;
    const int64_t begin = (met.begin - block.keys.begin) / kLanes * kLanes;
    const int64_t end = round_up(met.end - block.keys.begin, kLanes);
    const Span whole = {block.keys.begin + begin, block.keys.begin + end};
    const Span full = Span{range.full_begin, range.full_end}.common(may_be_visible);
    steps[count++] = {s - group.strips.begin, {begin, end}, full.begin <= whole.begin && whole.end <= full.end};
  }
  return count;
}

int64_t states_of(const QueryStrip* strips, int64_t count, int64_t heads) {
  return count == 1 ? ceil_div(heads * strips[0].rows, kStrip) : count * heads;
}

int64_t shared_steps(const QueryStrip* strips, int64_t count, const KeyBlock& block, Span may_be_visible, SharedStep* steps) {
  Span full[2];
  int64_t made = 0;
  const auto covered = [&](Span all, Span keys) {
    return all.begin <= block.keys.begin + keys.begin && block.keys.begin + keys.end <= all.end;
  };
  for (int64_t s = 0; s < count; ++s) {
    const layout::TileRange& range = block.is_global ? strips[s].global : strips[s].keys;
    const Span met = span_of(range).common(block.keys);
    if (met.empty()) continue;
    const Span keys = {(met.begin - block.keys.begin) / 32 * 32, round_up(met.end - block.keys.begin, 32)};
    full[made] = Span{range.full_begin, range.full_end}.common(may_be_visible);
    steps[made] = {s, 1, keys, covered(full[made], keys)};
    ++made;
  }
  if (made < 2) return made;
  const Span both = steps[0].keys.with(steps[1].keys);
  if (2 * both.size() - steps[0].keys.size() - steps[1].keys.size() > 32) return made;
  steps[0] = {0, 2, both, covered(full[0].common(full[1]), both)};
  return 1;
}

int64_t executed_pairs(const AttentionProblem& problem, bool paired) {
  const QuerySchedule schedule = forward_schedule(problem);
  std::vector<Step> steps(schedule.most_strips);
  int64_t pairs = 0;
  for (const QueryGroup& group : schedule.groups) {
    const QueryStrip* const strips = schedule.strips.data() + group.strips.begin;
    const int64_t own = group.strips.size();
    const bool by_twos = paired && states_of(strips, own, problem.group()) >= kLeastPaired;
    for (int64_t at = 0; at < group.blocks(); ++at) {
      for (int64_t s = 0; by_twos && s < own; s += 2) {
        SharedStep shared[2];
        const int64_t made = shared_steps(strips + s, std::min<int64_t>(2, own - s), group.block(at), {}, shared);
        for (int64_t e = 0; e < made; ++e)
          for (int64_t i = 0; i < shared[e].count; ++i) pairs += strips[s + shared[e].first + i].rows * shared[e].keys.size();
      }
      if (by_twos) continue;
      const int64_t count = steps_of(schedule.strips.data(), group, group.block(at), {}, steps.data());
      for (int64_t i = 0; i < count; ++i)
        pairs += schedule.strips[group.strips.begin + steps[i].strip].rows * steps[i].keys.size();
    }
  }
  return pairs;
}

KvSchedule kv_schedule(const AttentionProblem& problem) {
  const AttentionLayout& layout = problem.layout;
  const int64_t most = most_strips(problem, 4);
  KvSchedule schedule;
  schedule.row_of.assign(layout.kv_block_count + 1, 0);
  schedule.blocks_of.assign(layout.samples * problem.global_keys, {});
  schedule.covered.assign(layout.samples, 0);
  std::vector<KvGroup> groups;
  std::vector<Span> groups_of(layout.kv_block_count);
  int64_t strips = 0;
  for (int64_t u = 0; u < layout.kv_block_count; ++u) {
    const layout::KvBlock& kv_block = layout.kv_blocks[u];
    const int64_t keys = kv_block.key_end - kv_block.key_begin, own = strips_in(keys);
    schedule.row_of[u + 1] = schedule.row_of[u] + (kv_block.is_global ? keys : 0);
    if (kv_block.is_global) {
      Span* const blocks_of = schedule.blocks_of.data() + kv_block.sample * problem.global_keys;
      for (int64_t g = kv_block.key_begin; g < kv_block.key_end; ++g) extend(blocks_of[g], {u, u + 1});
    } else {
      schedule.covered[kv_block.sample] = std::max<int64_t>(schedule.covered[kv_block.sample], kv_block.key_end);
    }
    // KV blocks of one block of G meet different rows: apart, they are work for several threads.
    const bool joins = !groups.empty() && groups.back().sample == kv_block.sample &&
                       groups.back().is_global == bool(kv_block.is_global) && strips + own <= most &&
                       layout.kv_blocks[u - 1].key_begin != kv_block.key_begin;
    if (!joins) {
      groups.push_back({kv_block.sample, bool(kv_block.is_global), {u, u}});
      strips = 0;
    }
    groups.back().kv_blocks.end = u + 1;
    strips += own;
    schedule.most_blocks = std::max(schedule.most_blocks, groups.back().kv_blocks.size());
    schedule.most_strips = std::max(schedule.most_strips, strips);
    const int64_t group = groups.size();
    groups_of[u] = {group - 1, group};
  }
  for (int64_t g : heavy_first(layout.kv_order, groups_of, groups.size())) {
    (groups[g].is_global ? schedule.global : schedule.keys).push_back(groups[g]);
  }
  if (!problem.own_global()) {
    schedule.place.assign(layout.index_samples * problem.keys, -1);
    for (int64_t b = 0; b < layout.index_samples; ++b) {
      for (int64_t g = 0; g < problem.global_keys; ++g) {
        const int32_t key = layout.global_index[b * problem.global_keys + g];
        if (key >= 0) schedule.place[b * problem.keys + key] = static_cast<int32_t>(g);
      }
    }
  }
  return schedule;
}

}  // namespace longreel
