// Adaptive average pooling on a CUDA stream. Strides count elements; `window` lies inside the tokens.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "adaptive_pool/pool_window.h"
#include "common/numbers.h"

namespace longreel {

struct TokenStrides {
  int64_t frame, token, channel;
};

// patches [frames, tokens, channels], any strides -> content [frames, cells, channels], dense.
cudaError_t adaptive_pool_cuda(Dtype dtype, const void* patches, TokenStrides strides, int64_t frames, int64_t channels,
                               const PoolWindow& window, void* content, cudaStream_t stream);

// grad [frames, cells, channels], any strides -> grad_patches [frames, tokens, channels], dense; 0 outside the window.
cudaError_t adaptive_pool_backward_cuda(Dtype dtype, const void* grad, TokenStrides strides, int64_t frames, int64_t tokens,
                                        int64_t channels, const PoolWindow& window, void* grad_patches, cudaStream_t stream);

}  // namespace longreel
