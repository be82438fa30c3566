// Adaptive average pooling of every frame's patches, on the CPU.
#pragma once

#include <cstdint>

#include "adaptive_pool/pool_window.h"
#include "common/numbers.h"
#include "common/parallel.h"

namespace longreel {

// patches [F, N, C], any strides (in elements) -> content [F, cells, C] contiguous, in the same type.
struct PoolProblem {
  const void* patches;
  Dtype dtype;
  int64_t frames, tokens, channels;
  int64_t frame_stride, row_stride, channel_stride;
  PoolWindow pool;
};

void adaptive_pool_cpu(const PoolProblem& problem, void* content, const Pool& threads);

// grad [F, cells, C] contiguous -> grad_patches [F, tokens, C] contiguous.
struct PoolGradient {
  const void* grad;
  Dtype dtype;
  int64_t frames, tokens, channels;
  PoolWindow pool;
};

void adaptive_pool_backward_cpu(const PoolGradient& problem, void* grad_patches, const Pool& threads);

}  // namespace longreel
