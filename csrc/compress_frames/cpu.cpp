#include "compress_frames/compress_frames.h"

#include "common/cpu_isa.h"
#include "compress_frames/frame_kernels.h"

namespace longreel {
namespace {

FrameKernels choose_kernels(Dtype dtype) {
  [[maybe_unused]] const CpuIsa isa = choose_cpu_isa();
#if defined(LONGREEL_X86)
  if (dtype == Dtype::bf16 && isa == CpuIsa::amx_bf16) return frame_kernels_amx_bf16();
  if (dtype == Dtype::bf16 && isa == CpuIsa::avx512_bf16 && bf16_pairs_pay()) return frame_kernels_avx512_bf16();
  if (isa >= CpuIsa::avx512) return frame_kernels_avx512(dtype);
  if (isa == CpuIsa::avx2) return frame_kernels_avx2(dtype);
#endif
  return frame_kernels_portable(dtype);
}

}  // namespace

void compress_frames_cpu(const FrameProblem& problem, const FrameOutputs& outputs, const Pool& threads) {
  choose_kernels(problem.patches.dtype).forward(problem, outputs, threads);
}

void compress_frames_backward_cpu(const FrameProblem& problem, const FrameGradients& gradients, const Pool& threads) {
  choose_kernels(problem.patches.dtype).backward(problem, gradients, threads);
}

}  // namespace longreel
