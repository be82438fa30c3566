#include "vst/memory_layout.h"

#include <algorithm>

namespace longreel {
namespace {

constexpr int32_t kNoStart = 0;

int32_t number(const int32_t* numbers, int64_t b) { return numbers == nullptr ? 0 : numbers[b]; }

bool alike(const int32_t* numbers, int64_t batch) {
  return numbers == nullptr || std::all_of(numbers, numbers + batch, [&](int32_t n) { return n == numbers[0]; });
}

// All that a range from the first key on meets, with `more` keys in front of it.
layout::TileRange behind(const layout::TileRange& range, int32_t more) {
  if (more == 0) return range;
  return {0, 0, more + (range.full_begin == 0 ? range.full_end : 0), more + range.end};
}

}  // namespace

MemoryLayout::MemoryLayout(const AttentionLayout& plan, int64_t rows, int64_t batch, const Memory& memory) : layout_{} {
  const bool one =
      plan.samples == 1 && alike(memory.length, batch) && alike(memory.start, batch) && alike(memory.before, batch);
  const int64_t samples = one ? 1 : batch;
  bounds_.reserve(samples * rows * 4);
  if (plan.samples == 1) {
    for (int64_t b = 0; b < samples; ++b) add(plan, rows, b, memory);
  } else {
    add(plan, rows, -1, memory);
  }
  layout_.start = &kNoStart;
  layout_.bounds = bounds_.data();
  layout_.bounds_columns = 4;
  layout_.index_samples = layout_.start_samples = 1;
  layout_.samples = samples;
  layout_.tiles = tiles_.data();
  layout_.order = order_.data();
  layout_.tile_count = tiles_.size();
}

// The plan's one sample as sample b, or all of its samples where b is -1.
void MemoryLayout::add(const AttentionLayout& plan, int64_t rows, int64_t b, const Memory& memory) {
  const auto sample = [&](int64_t own) { return b < 0 ? own : b; };
  const int32_t before = static_cast<int32_t>(tiles_.size());
  for (int64_t t = 0; t < plan.tile_count; ++t) {
    layout::Tile tile = plan.tiles[t];
    tile.sample = static_cast<int32_t>(sample(tile.sample));
    const int32_t start = number(memory.start, tile.sample);
    tile.keys = behind(tile.keys, number(memory.before, tile.sample));
    tile.global = behind(tile.global, memory.length[tile.sample]);
    tile.global.begin = tile.global.full_begin = start;
    tile.global.full_end = std::max(start, tile.global.full_end);
    if (tile.global.end <= start) tile.global = {0, 0, 0, 0};
    tiles_.push_back(tile);
  }
  for (int64_t t = 0; t < plan.tile_count; ++t) order_.push_back(before + plan.order[t]);
  const int64_t first = b < 0 ? 0 : b, count = b < 0 ? plan.samples : 1;
  for (int64_t s = 0; s < count; ++s) {
    const int32_t start = number(memory.start, first + s), length = memory.length[first + s];
    const int32_t before = number(memory.before, first + s);
    for (int64_t row = 0; row < rows; ++row) {
      const int32_t* own = plan.bounds + (s * rows + row) * 4;
      bounds_.insert(bounds_.end(), {own[0], before + own[1], start, length + own[3]});
    }
  }
}

}  // namespace longreel
