// Softmax down the tokens of a frame, from its scores [row][token]; by one block.
#pragma once

#include <cmath>

#include "compress_frames/cuda_frame.cuh"

namespace longreel {

// Rows of scores that are handled together.
constexpr int kSoftmaxRows = 64;

// The largest score of every row, and the factor that makes exp(scale (s - m_i)) its share of the weights; 0 where it has none.
struct SoftmaxTerms {
  float m_i[kSoftmaxRows], factor[kSoftmaxRows];
};

__device__ inline int64_t valid_queries(const Queries& q, int64_t p, int64_t set) {
  if (q.mask == nullptr) return q.rows;
  int64_t count = 0;
  for (int64_t m = 0; m < q.rows; ++m) count += q.valid(p, set, m);
  return count;
}

// Calls run(first, rows, s) for a few rows [rows, pitch] at a time, s in shared memory if one row fits there. At least once.
template <class Run>
__device__ void over_rows(const float* scores, int64_t all, int64_t pitch, const Run& run) {
  const int64_t fitting = kSharedBytes / static_cast<int64_t>(sizeof(float)) / max(pitch, int64_t{1});
  const int64_t most = fitting == 0 ? kSoftmaxRows : min(fitting, int64_t{kSoftmaxRows});
  auto* const staged = reinterpret_cast<float*>(dynamic_shared());
  int64_t first = 0;
  do {
    const int64_t rows = min(most, all - first);
    const float* s = scores + first * pitch;
    if (fitting > 0) {
      for (int64_t i = threadIdx.x; i < rows * pitch / 4; i += kThreads) copy_async(staged + 4 * i, s + 4 * i, true);
      commit_copies();
      wait_for_copies<0>();
      __syncthreads();
      s = staged;
    }
    run(first, rows, s);
    __syncthreads();
    first += rows;
  } while (first < all);
}

// weights [P, F, N'] and lse [P, F, M] of a frame whose scores are complete.
template <class T>
__device__ void softmax_mean(const FrameCall& call, const Frame<T>& frame, const FrameOutputs& outputs) {
  __shared__ SoftmaxTerms terms;
  const FrameProblem& problem = call.problem;
  const Queries& queries = problem.queries;
  const float scale = fabsf(problem.scale);
  const int64_t set = queries.sets == 1 ? 0 : frame.index;
  for (int64_t p = 0; p < queries.prompts; ++p) {
    const float share = 1.0f / static_cast<float>(max(valid_queries(queries, p, set), int64_t{1}));
    float* const weights = outputs.weights + problem.weights_at(p, frame.index);
    float* const lse = outputs.lse + (p * problem.patches.frames + frame.index) * queries.rows;
    const float* const scores = frame.scores + p * queries.rows * frame.pitch;
    over_rows(scores, queries.rows, frame.pitch, [&](int64_t first, int64_t rows, const float* s) {
      for (int64_t i = threadIdx.x / kLanes; i < rows; i += kWarps) {
        float m_i = -INFINITY, l_i = 0.0f;
        for (int64_t n = threadIdx.x % kLanes; n < frame.tokens; n += kLanes) m_i = fmaxf(m_i, s[i * frame.pitch + n]);
        m_i = warp_max(m_i);
        for (int64_t n = threadIdx.x % kLanes; n < frame.tokens; n += kLanes) {
          l_i += expf((s[i * frame.pitch + n] - m_i) * scale);
        }
        l_i = warp_sum(l_i);
        if (threadIdx.x % kLanes == 0) {
          const bool counts = frame.tokens > 0 && queries.valid(p, set, first + i);
          terms.m_i[i] = m_i;
          terms.factor[i] = counts ? share / l_i : 0.0f;
          lse[first + i] = counts ? m_i * scale + logf(l_i) : -INFINITY;
        }
      }
      __syncthreads();
      for (int64_t n = threadIdx.x; n < frame.tokens; n += kThreads) {
        float weight = first == 0 ? 0.0f : __ldcg(weights + n);
        for (int64_t i = 0; i < rows; ++i) {
          if (terms.factor[i] != 0.0f) weight += expf((s[i * frame.pitch + n] - terms.m_i[i]) * scale) * terms.factor[i];
        }
        weights[n] = weight;
      }
    });
  }
}

}  // namespace longreel
