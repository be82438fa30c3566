#include "vst/memory_layout.h"

#include <algorithm>

namespace longreel {
namespace {

constexpr int32_t kNoStart = 0;

int32_t start_of(const Memory& memory, int64_t b) { return memory.start == nullptr ? 0 : memory.start[b]; }

}  // namespace

MemoryLayout::MemoryLayout(const AttentionLayout& plan, int64_t rows, int64_t batch, const Memory& memory) : layout_{} {
  bool alike = plan.samples == 1;
  for (int64_t b = 1; b < batch; ++b) {
    alike = alike && memory.length[b] == memory.length[0] && start_of(memory, b) == start_of(memory, 0);
  }
  const int64_t samples = alike ? 1 : batch;
  bounds_.reserve(samples * rows * 4);
  if (plan.samples == 1) {
    for (int64_t b = 0; b < samples; ++b) add(plan, rows, b, memory);
  } else {
    add(plan, rows, -1, memory);
  }
  layout_.start = &kNoStart;
  layout_.bounds = bounds_.data();
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
    const int32_t start = start_of(memory, tile.sample), length = memory.length[tile.sample];
    const layout::Run own = tile.global;
    const int32_t full = own.full_begin == 0 ? own.full_end : 0;
    tile.global = {start, start, std::max(start, length + full), length + own.end};
    if (tile.global.end <= start) tile.global = {0, 0, 0, 0};
    tiles_.push_back(tile);
  }
  for (int64_t t = 0; t < plan.tile_count; ++t) order_.push_back(before + plan.order[t]);
  const int64_t first = b < 0 ? 0 : b, count = b < 0 ? plan.samples : 1;
  for (int64_t s = 0; s < count; ++s) {
    const int32_t start = start_of(memory, first + s), length = memory.length[first + s];
    for (int64_t row = 0; row < rows; ++row) {
      const int32_t* own = plan.bounds + (s * rows + row) * 4;
      bounds_.insert(bounds_.end(), {own[0], own[1], start, length + own[3]});
    }
  }
}

}  // namespace longreel
