#include "common/cpu_isa.h"
#include "vst/rotate_kernels.h"

namespace longreel {
namespace {

RotateKernels choose_kernels(Dtype dtype) {
  [[maybe_unused]] const CpuIsa isa = choose_cpu_isa();
#if defined(LONGREEL_X86)
  if (isa >= CpuIsa::avx512) return rotate_kernels_avx512(dtype);
  if (isa == CpuIsa::avx2) return rotate_kernels_avx2(dtype);
#endif
  return rotate_kernels_portable(dtype);
}

}  // namespace

void vst_rotate_cpu(const RotateProblem& problem, const RotateOutputs& outputs, const Pool& threads) {
  choose_kernels(problem.dtype).rotate(problem, outputs, threads);
}

void vst_append_cpu(const AppendProblem& problem, const Pool& threads) {
  choose_kernels(problem.dtype).append(problem, threads);
}

}  // namespace longreel
