#include "common/cpu_isa.h"
#include "qformer_attention/qformer_kernels.h"

namespace longreel {
namespace {

QFormerKernels choose_kernels(Dtype dtype) {
  [[maybe_unused]] const CpuIsa isa = choose_cpu_isa();
#if defined(LONGREEL_X86)
  if (dtype != Dtype::f16 && isa == CpuIsa::amx_bf16) return qformer_kernels_amx(dtype);
  if (isa >= CpuIsa::avx512) return qformer_kernels_avx512(dtype);
  if (isa == CpuIsa::avx2) return qformer_kernels_avx2(dtype);
#endif
  return qformer_kernels_portable(dtype);
}

}  // namespace

void qformer_attention_cpu(const QFormerProblem& problem, const QFormerOutputs& outputs, const Pool& threads) {
  choose_kernels(problem.dtype).forward(problem, outputs, threads);
}

void qformer_attention_backward_cpu(const QFormerProblem& problem, const QFormerGradients& gradients, const Pool& threads) {
  choose_kernels(problem.dtype).backward(problem, gradients, threads);
}

}  // namespace longreel
