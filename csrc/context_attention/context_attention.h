// Query-to-patch softmax aggregation of frames, on the CPU: the frame pass of compress_frames without pooling.
#pragma once

#include "compress_frames/compress_frames.h"

namespace longreel {

// problem.pool has no cells and no prefix. Arrays as in FrameOutputs and FrameGradients.
void context_attention_cpu(const FrameProblem& problem, void* context, float* weights, float* lse, const Pool& threads);

void context_attention_backward_cpu(const FrameProblem& problem, const void* grad_context, const float* grad_weights,
                                    const float* lse, void* grad_query, void* grad_patches, const Pool& threads);

}  // namespace longreel
