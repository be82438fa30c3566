#include "common/cpu_isa.h"
#include "token_density/density_kernels.h"

namespace longreel {
namespace {

TokenDensityKernel choose_kernel(Dtype dtype) {
  [[maybe_unused]] const CpuIsa isa = choose_cpu_isa();
#if defined(LONGREEL_X86)
  if (dtype != Dtype::f16 && isa == CpuIsa::amx_bf16) return token_density_amx(dtype);
  if (dtype == Dtype::bf16 && isa == CpuIsa::avx512_bf16 && bf16_pairs_pay()) return token_density_avx512_bf16();
  if (isa >= CpuIsa::avx512) return token_density_avx512(dtype);
  if (isa == CpuIsa::avx2) return token_density_avx2(dtype);
#endif
  return token_density_portable(dtype);
}

}  // namespace

void token_density_cpu(const TokenDensityProblem& problem, const TokenDensityOutputs& outputs, const Pool& threads) {
  choose_kernel(problem.dtype)(problem, outputs, threads);
}

}  // namespace longreel
