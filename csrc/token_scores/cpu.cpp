#include "common/cpu_isa.h"
#include "token_scores/scores_kernels.h"

namespace longreel {
namespace {

TokenScoresKernel choose_kernel(Dtype dtype) {
  [[maybe_unused]] const CpuIsa isa = choose_cpu_isa();
#if defined(LONGREEL_X86)
  if (isa >= CpuIsa::avx512) return token_scores_avx512(dtype);
  if (isa == CpuIsa::avx2) return token_scores_avx2(dtype);
#endif
  return token_scores_portable(dtype);
}

}  // namespace

void token_scores_cpu(const TokenScoresProblem& problem, const TokenScoresOutputs& outputs, const Pool& threads) {
  choose_kernel(problem.dtype)(problem, outputs, threads);
}

}  // namespace longreel
