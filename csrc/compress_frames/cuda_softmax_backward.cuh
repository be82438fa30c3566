// Backward of the softmax over a frame's tokens: its scores become their own gradient.
#pragma once

#include "compress_frames/cuda_softmax.cuh"

namespace longreel {

// Scores of a frame hold, for P prompts of M queries: [P M] x . q, [P] x . grad_context, [P] left free. They become
// [P M] ds_mn = scale (p_mn / valid) (g_n - sum_n' p_mn' g_n') with g = x . grad_context + grad_weights, [P] g, [P] weights_n.
// Every row is filled with zeros up to the pitch. p is normalised anew: a large lse is rounded coarsely.
template <class T>
__device__ void softmax_mean_backward(const FrameCall& call, const Frame<T>& frame, const float* grad_weights) {
  __shared__ SoftmaxTerms terms;
  __shared__ float means[kSoftmaxRows];
  const FrameProblem& problem = call.problem;
  const Queries& queries = problem.queries;
  const float scale = fabsf(problem.scale);
  const int64_t set = queries.sets == 1 ? 0 : frame.index, pitch = frame.pitch;
  for (int64_t p = 0; p < queries.prompts; ++p) {
    const float share = 1.0f / static_cast<float>(max(valid_queries(queries, p, set), int64_t{1}));
    float* const scores = frame.scores + p * queries.rows * pitch;
    float* const g = frame.scores + (queries.prompts * queries.rows + p) * pitch;
    float* const weights = g + queries.prompts * pitch;
    if (grad_weights != nullptr) {
      const float* const given = grad_weights + problem.weights_at(p, frame.index);
      for (int64_t n = threadIdx.x; n < frame.tokens; n += kThreads) g[n] = __ldcg(g + n) + given[n];
      __syncthreads();
    }
    over_rows(scores, queries.rows, pitch, [&](int64_t first, int64_t rows, const float* s) {
      for (int64_t i = threadIdx.x / kLanes; i < rows; i += kWarps) {
        float m_i = -INFINITY, l_i = 0.0f, moment = 0.0f;
        for (int64_t n = threadIdx.x % kLanes; n < frame.tokens; n += kLanes) m_i = fmaxf(m_i, s[i * pitch + n]);
        m_i = warp_max(m_i);
        for (int64_t n = threadIdx.x % kLanes; n < frame.tokens; n += kLanes) {
          const float e = expf((s[i * pitch + n] - m_i) * scale);
          l_i += e;
          moment = fmaf(e, __ldcg(g + n), moment);
        }
        l_i = warp_sum(l_i);
        moment = warp_sum(moment);
        if (threadIdx.x % kLanes == 0) {
          const bool counts = frame.tokens > 0 && queries.valid(p, set, first + i);
          terms.m_i[i] = m_i;
          terms.factor[i] = counts ? share / l_i : 0.0f;
          means[i] = moment / l_i;
        }
      }
      __syncthreads();
      for (int64_t n = threadIdx.x; n < pitch; n += kThreads) {
        const bool inside = n < frame.tokens;
        const float own = inside ? __ldcg(g + n) : 0.0f;
        float weight = inside && first > 0 ? __ldcg(weights + n) : 0.0f;
        for (int64_t i = 0; i < rows; ++i) {
          const bool counts = inside && terms.factor[i] != 0.0f;
          const float share_of_row = counts ? expf((s[i * pitch + n] - terms.m_i[i]) * scale) * terms.factor[i] : 0.0f;
          weight += share_of_row;
          scores[(first + i) * pitch + n] = counts ? problem.scale * share_of_row * (own - means[i]) : 0.0f;
        }
        weights[n] = weight;
      }
    });
  }
}

}  // namespace longreel
