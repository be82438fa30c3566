// The kernels that each instruction set provides: one per source file scores_<isa>.cpp.
#pragma once

#include "token_scores/token_scores.h"

namespace longreel {

using TokenScoresKernel = void (*)(const TokenScoresProblem&, const TokenScoresOutputs&, const Pool&);

TokenScoresKernel token_scores_portable(Dtype dtype);
TokenScoresKernel token_scores_avx2(Dtype dtype);
TokenScoresKernel token_scores_avx512(Dtype dtype);

}  // namespace longreel
