// Backward of the softmax over a frame's tokens: its scores become their own gradient.
#pragma once

#include "compress_frames/cuda_softmax.cuh"

namespace longreel {

// Scores of a frame hold, for P prompts of M queries: [P M] x . q, [P] x . grad_context, [P] left free. They become
// [P M] ds_mn = scale (p_mn / valid) (g_n - sum_n' p_mn' g_n') with g = x . grad_context + grad_weights, [P] g, [P] weights_n.
// Every row is filled with zeros up to the pitch. p is normalised anew: a large lse is rounded coarsely.
template <class T>
__device__ void differentiate_rows(const FramePass& pass, const Frame<T>& frame, const float* grad_weights) {
  __shared__ RowTops tops;
  __shared__ float means[kSoftmaxRows];
  const FrameProblem& problem = pass.problem;
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
        float top = -INFINITY, total = 0.0f, moment = 0.0f;
        for (int64_t n = threadIdx.x % kLanes; n < frame.tokens; n += kLanes) top = fmaxf(top, s[i * pitch + n]);
        top = warp_max(top);
        for (int64_t n = threadIdx.x % kLanes; n < frame.tokens; n += kLanes) {
          const float e = expf((s[i * pitch + n] - top) * scale);
          total += e;
          moment = fmaf(e, __ldcg(g + n), moment);
        }
        total = warp_sum(total);
        moment = warp_sum(moment);
        if (threadIdx.x % kLanes == 0) {
          const bool counts = frame.tokens > 0 && queries.valid(p, set, first + i);
          tops.top[i] = top;
          tops.factor[i] = counts ? share / total : 0.0f;
          means[i] = moment / total;
        }
      }
      __syncthreads();
      for (int64_t n = threadIdx.x; n < pitch; n += kThreads) {
        const bool inside = n < frame.tokens;
        const float own = inside ? __ldcg(g + n) : 0.0f;
        float weight = inside && first > 0 ? __ldcg(weights + n) : 0.0f;
        for (int64_t i = 0; i < rows; ++i) {
          const bool counts = inside && tops.factor[i] != 0.0f;
          const float share_of_row = counts ? expf((s[i * pitch + n] - tops.top[i]) * scale) * tops.factor[i] : 0.0f;
          weight += share_of_row;
          scores[(first + i) * pitch + n] = counts ? problem.scale * share_of_row * (own - means[i]) : 0.0f;
        }
        weights[n] = weight;
      }
    });
  }
}

}  // namespace longreel
