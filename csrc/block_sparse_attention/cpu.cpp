#include "block_sparse_attention/attention_kernels.h"
#include "common/cpu_isa.h"

namespace longreel {
namespace {

// Few rows over a cache wait for its bytes, which pairs take as they are.
[[maybe_unused]] bool waits_for_bytes(const AttentionProblem& problem) { return problem.queries * problem.group() <= kStrip; }

AttentionKernels choose_kernels(const AttentionProblem& problem) {
  const Dtype dtype = problem.dtype;
  [[maybe_unused]] const CpuIsa isa = choose_cpu_isa();
#if defined(LONGREEL_X86)
  if (dtype == Dtype::bf16 && isa == CpuIsa::amx_bf16) return attention_kernels_amx_bf16();
  if (dtype == Dtype::bf16 && isa == CpuIsa::avx512_bf16 && (waits_for_bytes(problem) || bf16_pairs_pay()))
    return attention_kernels_avx512_bf16();
  if (isa >= CpuIsa::avx512) return attention_kernels_avx512(dtype);
  if (isa == CpuIsa::avx2) return attention_kernels_avx2(dtype);
#endif
  return attention_kernels_portable(dtype);
}

}  // namespace

void block_sparse_attention_cpu(const AttentionProblem& problem, const AttentionOutputs& outputs, const Pool& threads) {
  if (problem.batch == 0 || problem.heads == 0) return;
  const QuerySchedule schedule = forward_schedule(problem);
  choose_kernels(problem).forward(problem, schedule, outputs, threads);
}

void block_sparse_attention_backward_cpu(const AttentionProblem& problem, const AttentionGradients& gradients,
                                         const Pool& threads) {
  if (problem.batch == 0) return;
  const QuerySchedule queries = backward_schedule(problem);
  const KvSchedule keys = kv_schedule(problem);
  choose_kernels(problem).backward(problem, queries, keys, gradients, threads);
}

}  // namespace longreel
