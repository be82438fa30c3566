// What every token of a video's frames is worth, from one read of the frames, on the CPU.
#pragma once

#include <cstdint>

#include "common/numbers.h"
#include "common/parallel.h"

namespace longreel {

// patches [F, N, C], query [M, C], before [N, C] or null: strides in elements.
struct TokenScoresProblem {
  const void* patches;
  const void* query;
  const void* before;
  Dtype dtype;
  int64_t frames, tokens, channels, queries;
  int64_t frame_stride, row_stride, channel_stride;
  int64_t query_stride, query_channel_stride;
  int64_t before_stride, before_channel_stride;
  float scale;
};

// products [F, N, M], change [F, N], uniqueness [F, N], all fp32.
struct TokenScoresOutputs {
  float* products;
  float* change;
  float* uniqueness;
};

void token_scores_cpu(const TokenScoresProblem& problem, const TokenScoresOutputs& outputs, const Pool& threads);

}  // namespace longreel
