// Pooling of frames and packed pictures, on the CPU.
#pragma once

#include <cstdint>

#include "adaptive_pool/pool_axis.h"
#include "common/numbers.h"
#include "common/parallel.h"

namespace longreel {

// Frames that are pooled together. from: of its first frame's first token; frame_step: to that of the next, both in steps of the
// tensor that they index. to: its first cell. rows: tokens of a frame, with those that no cell covers. cell_rows, frames: rows of
// cells and frames of the pictures up to and with this one.
struct PoolPicture {
  PoolAxis time, down, across;
  int64_t from, frame_step, to;
  int64_t rows, prefix, pitch;
  int64_t cell_rows, frames;
};

struct PoolPictures {
  const PoolPicture* data;
  int64_t count;

  LONGREEL_INLINE const PoolPicture* begin() const { return data; }
  LONGREEL_INLINE const PoolPicture* end() const { return data + count; }
};

// patches, strides in elements -> content [cells of all pictures, C] contiguous, in the same type.
struct PoolProblem {
  const void* patches;
  Dtype dtype;
  int64_t channels, row_stride, channel_stride;
  PoolPictures pictures;
};

void adaptive_pool_cpu(const PoolProblem& problem, void* content, const Pool& threads);

// grad [cells of all pictures, C] contiguous -> grad_patches [tokens of all pictures, C] contiguous.
struct PoolGradient {
  const void* grad;
  Dtype dtype;
  int64_t channels;
  PoolPictures pictures;
};

void adaptive_pool_backward_cpu(const PoolGradient& problem, void* grad_patches, const Pool& threads);

}  // namespace longreel
