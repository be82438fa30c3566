// A plan for rows whose global keys stand in a memory: planned once, whatever the memory's length.
#pragma once

#include <vector>

#include "block_sparse_attention/block_sparse_attention.h"

namespace longreel {

// Entries [start, length) of sample b's memory were there before; behind them stand the global keys of the plan itself. The
// rows' own keys, too, may stand behind others, all of which they attend to.
struct Memory {
  const int32_t* length;  // [B]
  const int32_t* start;   // [B], or null: 0
  const int32_t* before;  // [B], keys of K before the rows' own, or null: 0
};

// The plan with the memory in front of its global keys, all of which its rows attend to from the first on. `plan` has bounds, tiles,
// order and their numbers; one sample of it, or `batch`.
class MemoryLayout {
 public:
  MemoryLayout(const AttentionLayout& plan, int64_t rows, int64_t batch, const Memory& memory);
  // The layout points into this object.
  MemoryLayout(const MemoryLayout&) = delete;
  MemoryLayout& operator=(const MemoryLayout&) = delete;

  const AttentionLayout& layout() const { return layout_; }

 private:
  void add(const AttentionLayout& plan, int64_t rows, int64_t b, const Memory& memory);

  std::vector<int32_t> bounds_, order_;
  std::vector<layout::Tile> tiles_;
  AttentionLayout layout_;
};

}  // namespace longreel
