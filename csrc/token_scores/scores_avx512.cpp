#include "token_scores/scores_kernel.h"

namespace longreel {

TokenScoresKernel token_scores_avx512(Dtype dtype) { return token_scores_kernel(dtype); }

}  // namespace longreel
