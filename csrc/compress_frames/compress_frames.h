// Query-to-patch softmax aggregation and adaptive pooling of frames in one read of the patches, on the CPU.
//
// Per prompt p and frame f, over the tokens n after the prefix and the valid queries m:
//   s_mn = scale q_m . x_n,  p_mn = exp(s_mn - lse_m),  weights_n = mean_m p_mn,  context = sum_n weights_n x_n,
//   content_c = mean of x_n over the tokens of pooled cell c.
#pragma once

#include <cstdint>

#include "adaptive_pool/pool_window.h"
#include "common/numbers.h"
#include "common/parallel.h"

namespace longreel {

// [F, N, C], any strides (in elements); or packed frames, of which frame f is rows offsets[f] .. offsets[f + 1].
struct Patches {
  const void* data;
  Dtype dtype;
  int64_t frames, tokens, channels;
  int64_t frame_stride, row_stride, channel_stride;
  const int64_t* offsets;  // [F + 1] or null

  LONGREEL_INLINE int64_t first_row(int64_t f) const { return offsets == nullptr ? 0 : offsets[f]; }
  LONGREEL_INLINE int64_t rows(int64_t f) const { return offsets == nullptr ? tokens : offsets[f + 1] - offsets[f]; }
  // Element offset of row n of frame f.
  LONGREEL_INLINE int64_t at(int64_t f, int64_t n) const {
    return f * (offsets == nullptr ? frame_stride : 0) + (first_row(f) + n) * row_stride;
  }
};

// [P, Q, M, C], any strides; Q is 1 (every frame's) or F. mask [P, Q, M]: null, or true where a query counts.
struct Queries {
  const void* data;
  int64_t prompts, sets, rows;
  int64_t prompt_stride, set_stride, row_stride, channel_stride;
  const bool* mask;
  int64_t mask_prompt_stride, mask_set_stride, mask_row_stride;

  LONGREEL_INLINE int64_t at(int64_t p, int64_t set, int64_t m) const {
    return p * prompt_stride + set * set_stride + m * row_stride;
  }
  LONGREEL_INLINE bool valid(int64_t p, int64_t set, int64_t m) const {
    return mask == nullptr || mask[p * mask_prompt_stride + set * mask_set_stride + m * mask_row_stride];
  }
};

// Common to both directions. Without cells nothing is pooled, and only pool.prefix counts.
struct FrameProblem {
  Patches patches;
  Queries queries;
  float scale;
  PoolWindow pool;

  LONGREEL_INLINE int64_t total_tokens() const {
    return patches.offsets == nullptr ? patches.frames * (patches.tokens - pool.prefix) : patches.offsets[patches.frames];
  }
  // Where the weights of prompt p, frame f begin: [P, F, N'] or [P, total].
  LONGREEL_INLINE int64_t weights_at(int64_t p, int64_t f) const {
    return p * total_tokens() + (patches.offsets == nullptr ? f * (patches.tokens - pool.prefix) : patches.offsets[f]);
  }
};

// Outputs, contiguous: context [P, F, C] and content [F, cells, C] in the patches' type, weights, lse [P, F, M] fp32.
struct FrameOutputs {
  void* context;
  void* content;
  float* weights;
  float* lse;
};

// Gradients of the outputs, contiguous, each may be null (zero), and what is asked for, each may be null:
// grad_query [P, Q, M, C], grad_patches [F, N, C] or [total, C], contiguous, in the patches' type.
struct FrameGradients {
  const void* grad_context;
  const void* grad_content;
  const float* grad_weights;
  const float* lse;
  void* grad_query;
  void* grad_patches;
};

void compress_frames_cpu(const FrameProblem& problem, const FrameOutputs& outputs, const Pool& threads);

void compress_frames_backward_cpu(const FrameProblem& problem, const FrameGradients& gradients, const Pool& threads);

}  // namespace longreel
