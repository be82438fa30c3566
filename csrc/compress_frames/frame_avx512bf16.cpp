#include "common/dots_bf16.h"
#include "compress_frames/backward_kernel.h"
#include "compress_frames/forward_kernel.h"
#include "compress_frames/frame_kernels.h"

namespace longreel {

FrameKernels frame_kernels_avx512_bf16() {
  return {frames_forward<bf16, DotsBf16>, frames_backward<bf16, DotsBf16, VectorProducts<bf16>>};
}

}  // namespace longreel
