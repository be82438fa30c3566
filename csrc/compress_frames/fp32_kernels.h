// The table of one instruction set whose scores are computed in fp32.
#pragma once

#include "common/dots.h"
#include "compress_frames/backward_kernel.h"
#include "compress_frames/forward_kernel.h"
#include "compress_frames/frame_kernels.h"

namespace longreel {
namespace {

inline FrameKernels fp32_kernels(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return {frames_forward<float, DotsF32>, frames_backward<float, DotsF32, VectorProducts<float>>};
    case Dtype::bf16:
      return {frames_forward<bf16, DotsF32>, frames_backward<bf16, DotsF32, VectorProducts<bf16>>};
    case Dtype::f16:
      return {frames_forward<f16, DotsF32>, frames_backward<f16, DotsF32, VectorProducts<f16>>};
  }
  return {};
}

}  // namespace
}  // namespace longreel
