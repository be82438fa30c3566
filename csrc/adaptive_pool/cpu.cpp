#include "adaptive_pool/pool_kernels.h"
#include "common/cpu_isa.h"

namespace longreel {
namespace {

PoolKernels choose_kernels(Dtype dtype) {
  [[maybe_unused]] const CpuIsa isa = choose_cpu_isa();
#if defined(LONGREEL_X86)
  if (isa >= CpuIsa::avx512) return pool_kernels_avx512(dtype);
  if (isa == CpuIsa::avx2) return pool_kernels_avx2(dtype);
#endif
  return pool_kernels_portable(dtype);
}

}  // namespace

void adaptive_pool_cpu(const PoolProblem& problem, void* content, const Pool& threads) {
  choose_kernels(problem.dtype).forward(problem, content, threads);
}

void adaptive_pool_backward_cpu(const PoolGradient& problem, void* grad_patches, const Pool& threads) {
  choose_kernels(problem.dtype).backward(problem, grad_patches, threads);
}

}  // namespace longreel
