// Few queries over many keys, the projections absorbed: score = scale (W_k,h^T q_h) . x, out = W_v,h (sum p x) + b_v.
#pragma once

#include <cstdint>

#include "common/numbers.h"
#include "common/parallel.h"

namespace longreel {

struct QFormerProblem {
  Dtype dtype;
  int64_t batch, queries, keys, channels, heads, depth;  // the width of a query is heads * depth
  float scale;
  const void* x;  // [B, S, C], strides in elements
  int64_t x_batch, x_key, x_channel;
  const bool* mask;  // [B, S], true for a key that is read; or null
  int64_t mask_batch, mask_key;
  // The others are contiguous.
  const void* query;  // [B or 1, Nq, H D]
  bool shared;        // one sample of queries for all
  const void* w_k;    // [H D, C]
  const void* w_v;
  const void* b_v;    // [H D] or null
  const void* table;  // [T, C] or null
  int64_t frame_size;

  int64_t width() const { return heads * depth; }
  int64_t rows() const { return heads * queries; }
};

struct QFormerOutputs {
  float* out;  // [B, Nq, H D]
  float* lse;  // [B, H, Nq]
};

// Gradients, null where not wanted; contiguous.
struct QFormerGradients {
  const float* grad_out;
  const float* out;
  const float* lse;
  void* grad_query;
  void* grad_x;
  void* grad_w_k;
  void* grad_w_v;
  void* grad_b_v;
  void* grad_table;  // asks for grad_x too
};

void qformer_attention_cpu(const QFormerProblem& problem, const QFormerOutputs& outputs, const Pool& threads);
void qformer_attention_backward_cpu(const QFormerProblem& problem, const QFormerGradients& gradients, const Pool& threads);

}  // namespace longreel
