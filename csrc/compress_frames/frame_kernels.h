// The kernels that each instruction set provides: one table per source file frame_<isa>.cpp.
#pragma once

#include "compress_frames/compress_frames.h"

namespace longreel {

struct FrameKernels {
  void (*forward)(const FrameProblem&, const FrameOutputs&, const Pool&);
  void (*backward)(const FrameProblem&, const FrameGradients&, const Pool&);
};

FrameKernels frame_kernels_portable(Dtype dtype);
FrameKernels frame_kernels_avx2(Dtype dtype);
FrameKernels frame_kernels_avx512(Dtype dtype);
// bf16 patches only; the other types run on the avx512 kernels.
FrameKernels frame_kernels_avx512_bf16();
FrameKernels frame_kernels_amx_bf16();

}  // namespace longreel
