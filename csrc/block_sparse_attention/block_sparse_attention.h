// Attention over two key ranges per row, on the CPU, driven by a tile schedule.
//
// Row r of head h attends to the keys K[lo_r : hi_r) and G[glo_r : ghi_r), without those that stand before start:
//   s_rj = scale q_r . k_j,  p_rj = exp(s_rj - lse_r),  out_r = sum_j p_rj v_j.
// Backward, with delta_r = dout_r . out_r:
//   ds_rj = p_rj (dout_r . v_j - delta_r + dlse_r),
//   dq_r = scale sum_j ds_rj k_j,  dk_j = scale sum_r ds_rj q_r,  dv_j = sum_r p_rj dout_r.
#pragma once

#include <cstdint>

#include "common/numbers.h"
#include "common/parallel.h"
#include "layout/planner.h"

namespace longreel {

constexpr int64_t kMostHeadSize = 512;  // of a head

// [B, rows, heads, D], any strides (in elements). data is null where there is no such tensor.
struct Heads {
  const void* data;
  int64_t batch_stride, row_stride, head_stride, channel_stride;

  LONGREEL_INLINE int64_t at(int64_t b, int64_t row, int64_t head) const {
    return b * batch_stride + row * row_stride + head * head_stride;
  }
};

// The schedule (see python/longreel/layout/schedule.py) and what every row attends to. Tables of one sample serve every b.
struct AttentionLayout {
  const int32_t* global_index;  // [index_samples, G], rising, then -1; null: G is given, and bounds alone say what is visible
  const int32_t* start;         // [start_samples]
  const int32_t* bounds;        // [samples, Sq, bounds_columns]: lo, hi, and glo, ghi where there are global keys
  int64_t bounds_columns;       // 4, or 2 without global keys
  int64_t index_samples, start_samples, samples;
  const layout::Tile* tiles;
  const int32_t* order;
  const layout::KvBlock* kv_blocks;
  const layout::QueryRange* query_ranges;
  const int32_t* kv_order;
  int64_t tile_count, kv_block_count;
};

struct AttentionProblem {
  Dtype dtype;
  int64_t batch, queries, keys, global_keys, heads, kv_heads, channels;
  Heads q, k, v, global_k, global_v;  // without global_k, key g of G is key global_index[g] of K
  AttentionLayout layout;
  float scale;

  LONGREEL_INLINE int64_t group() const { return heads / kv_heads; }
  LONGREEL_INLINE bool own_global() const { return global_k.data != nullptr; }
};

// out [B, Sq, H, D] in the dtype of q, lse [B, H, Sq]; contiguous.
struct AttentionOutputs {
  void* out;
  float* lse;
};

// What came back and what is asked for. grad_lse [B, H, Sq] is contiguous or null; the results are contiguous, in the dtype
// and shape of their inputs, and null where they are not wanted.
struct AttentionGradients {
  Heads grad_out, out;
  const float* grad_lse;
  const float* lse;
  void* grad_q;
  void* grad_k;
  void* grad_v;
  void* grad_global_k;
  void* grad_global_v;
};

void block_sparse_attention_cpu(const AttentionProblem& problem, const AttentionOutputs& outputs, const Pool& threads);

void block_sparse_attention_backward_cpu(const AttentionProblem& problem, const AttentionGradients& gradients,
                                         const Pool& threads);

}  // namespace longreel
