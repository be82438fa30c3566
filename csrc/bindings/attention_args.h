// What the attention ops' bindings share: views of heads, and checks of a plan's tables.
#pragma once

#include <string>

#include "bindings/tensor_args.h"
#include "block_sparse_attention/block_sparse_attention.h"

namespace longreel {

inline Heads heads_view(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

inline void check_heads(const Tensor& tensor, const char* name, const Tensor& q, int64_t rows, int64_t heads) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU");
  STD_TORCH_CHECK(tensor.dim() == 4, name, " must have 4 dimensions, got ", tensor.dim());
  STD_TORCH_CHECK(tensor.scalar_type() == q.scalar_type(), name, " must have the dtype of q");
  const bool fits =
      tensor.size(0) == q.size(0) && tensor.size(1) == rows && tensor.size(2) == heads && tensor.size(3) == q.size(3);
  STD_TORCH_CHECK(fits, name, " must be [", q.size(0), ", ", rows, ", ", heads, ", ", q.size(3), "], got [", tensor.size(0),
                  ", ", tensor.size(1), ", ", tensor.size(2), ", ", tensor.size(3), "]");
}

// A contiguous int32 table on the CPU whose last dimension is `columns` (0: any), of `dims` dimensions.
inline Tensor table(const Tensor& tensor, const char* name, int64_t dims, int64_t columns) {
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Int, name, " must be int32 on the CPU");
  STD_TORCH_CHECK(tensor.dim() == dims && (columns == 0 || tensor.size(dims - 1) == columns), name, " must have ", dims,
                  " dimensions", columns == 0 ? "" : " and " + std::to_string(columns) + " columns");
  return dense(tensor);
}

inline const int32_t* ints(const Tensor& tensor) { return static_cast<const int32_t*>(tensor.const_data_ptr()); }

inline void check_samples(int64_t samples, int64_t batch, const char* name) {
  STD_TORCH_CHECK(samples == 1 || samples == batch, name, " must have 1 sample or ", batch, ", got ", samples);
}

inline void check_range(const layout::TileRange& range, int64_t end, const char* name) {
  STD_TORCH_CHECK(0 <= range.begin && range.begin <= range.end && range.end <= end, name, " meets ", range.begin, " .. ",
                  range.end, " of ", end);
}

// 0 <= order < count
inline void check_order(const Tensor& order, int64_t count, const char* name) {
  STD_TORCH_CHECK(order.size(0) == count, name, " must have ", count, " entries, got ", order.size(0));
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(0 <= ints(order)[i] && ints(order)[i] < count, name, " names ", ints(order)[i], " of ", count);
  }
}

// Every row is in one tile, and tiles meet keys that exist. bounds [samples, rows, 4] are the layout's.
inline void check_tiles(const AttentionLayout& layout, const Tensor& bounds, int64_t queries, int64_t keys,
                        int64_t global_keys) {
  STD_TORCH_CHECK(bounds.size(1) == queries, "bounds must have ", queries, " rows, got ", bounds.size(1));
  int64_t rows = 0;
  for (int64_t t = 0; t < layout.tile_count; ++t) {
    const layout::Tile& tile = layout.tiles[t];
    STD_TORCH_CHECK(0 <= tile.sample && tile.sample < layout.samples, "a tile is of sample ", tile.sample, " of ",
                    layout.samples);
    STD_TORCH_CHECK(0 <= tile.row_begin && tile.row_begin <= tile.row_end && tile.row_end <= queries, "a tile has rows ",
                    tile.row_begin, " .. ", tile.row_end, " of ", queries);
    check_range(tile.keys, keys, "a tile");
    check_range(tile.global, global_keys, "a tile");
    rows += tile.row_end - tile.row_begin;
  }
  STD_TORCH_CHECK(rows == layout.samples * queries, "tiles must have every query row once: ", layout.samples * queries,
                  ", got ", rows);
}

}  // namespace longreel
