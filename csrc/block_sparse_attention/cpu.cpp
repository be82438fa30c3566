#include "../common/cpu_isa.h"
#include "attention_kernels.h"

namespace longreel {
namespace {

AttentionKernels choose_kernels(Dtype dtype) {
  [[maybe_unused]] const CpuIsa isa = choose_cpu_isa();
#if defined(LONGREEL_X86)
  if (dtype == Dtype::bf16 && isa == CpuIsa::amx_bf16) return attention_kernels_amx_bf16();
  if (dtype == Dtype::bf16 && isa == CpuIsa::avx512_bf16) return attention_kernels_avx512_bf16();
  if (isa >= CpuIsa::avx512) return attention_kernels_avx512(dtype);
  if (isa == CpuIsa::avx2) return attention_kernels_avx2(dtype);
#endif
  return attention_kernels_portable(dtype);
}

// Strips whose rows and sums, `tensors` fp32 arrays of [16, D] each, stay in a core's second cache.
int64_t most_strips(const AttentionProblem& problem, int64_t tensors) {
  constexpr int64_t cache = 768 << 10;
  const int64_t bytes = kStrip * round_up(problem.channels, 32) * tensors * static_cast<int64_t>(sizeof(float));
  return std::clamp<int64_t>(cache / std::max<int64_t>(1, bytes), 1, 64);
}

}  // namespace

void block_sparse_attention_cpu(const AttentionProblem& problem, const AttentionOutputs& outputs, const Pool& threads) {
  if (problem.batch == 0 || problem.heads == 0) return;
  const QueryWork work = query_work(problem, most_strips(problem, 2 * problem.group()), true);
  choose_kernels(problem.dtype).forward(problem, work, outputs, threads);
}

void block_sparse_attention_backward_cpu(const AttentionProblem& problem, const AttentionGradients& gradients,
                                         const Pool& threads) {
  if (problem.batch == 0) return;
  const QueryWork queries = query_work(problem, most_strips(problem, 4 * problem.group()), false);
  const KeyWork keys = key_work(problem, most_strips(problem, 4));
  choose_kernels(problem.dtype).backward(problem, queries, keys, gradients, threads);
}

}  // namespace longreel
