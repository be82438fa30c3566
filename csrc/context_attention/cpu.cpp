#include "context_attention/context_attention.h"

namespace longreel {

void context_attention_cpu(const FrameProblem& problem, void* context, float* weights, float* lse, const Pool& threads) {
  compress_frames_cpu(problem, {context, nullptr, weights, lse}, threads);
}

void context_attention_backward_cpu(const FrameProblem& problem, const void* grad_context, const float* grad_weights,
                                    const float* lse, void* grad_query, void* grad_patches, const Pool& threads) {
  compress_frames_backward_cpu(problem, {grad_context, nullptr, grad_weights, lse, grad_query, grad_patches}, threads);
}

}  // namespace longreel
