// Rotary positions on the CPU, for rows of Video-XL's chunks: halves of a row turn by the angles of its position,
//   out = (first cos - second sin, second cos + first sin), in fp32, rounded once.
#pragma once

#include <cstdint>

#include "block_sparse_attention/block_sparse_attention.h"
#include "common/numbers.h"
#include "common/parallel.h"

namespace longreel {

// Angles of positions: [rows, channels / 2] each; sample b has those at b * stride (0: all samples have one table).
struct RotaryTable {
  const float* cos;
  const float* sin;
  int64_t stride;
};

// Grouped row i is the token at place[i], a number of its own below `rows`; the table is in the order of places.
// Forward: queries stay in their order, keys and values move to their places. Inverse: back, by the opposite angles.
struct RotateProblem {
  Dtype dtype;
  int64_t batch, rows, heads, kv_heads, channels;
  Heads q, k, v;  // where there is no data, nothing is written
  RotaryTable table;
  const int32_t* place;  // [samples, rows]
  int64_t samples;
  bool inverse;
};

// Contiguous [B, rows, heads, D].
struct RotateOutputs {
  void* q;
  void* k;
  void* v;
};

// Rows [B, rows, kv_heads, D] go to slots length[b] .. of the memory, which holds them for good; their keys are rotated to the
// position that is the slot's number.
struct AppendProblem {
  Dtype dtype;
  int64_t batch, rows, kv_heads, channels;
  Heads k, v;
  Heads memory_k, memory_v;  // as [B, capacity, kv_heads, D]; written
  const int32_t* length;     // [B]
  RotaryTable table;
};

void vst_rotate_cpu(const RotateProblem& problem, const RotateOutputs& outputs, const Pool& threads);
void vst_append_cpu(const AppendProblem& problem, const Pool& threads);

}  // namespace longreel
