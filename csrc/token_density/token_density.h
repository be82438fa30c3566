// How alike tokens are, each to each, and how densely they lie, on the CPU.
#pragma once

#include <cstdint>

#include "common/numbers.h"
#include "common/parallel.h"

namespace longreel {

// tokens [n, C]; strides in elements.
struct TokenDensityProblem {
  const void* tokens;
  Dtype dtype;
  int64_t count, channels;
  int64_t row_stride, channel_stride;
};

// likeness [n, n], density [n], denser [n], all fp32.
struct TokenDensityOutputs {
  float* likeness;
  float* density;
  float* denser;
};

void token_density_cpu(const TokenDensityProblem& problem, const TokenDensityOutputs& outputs, const Pool& threads);

}  // namespace longreel
