#include "common/dots.h"
#include "common/dots_amx.h"
#include "common/products_amx.h"
#include "compress_frames/backward_kernel.h"
#include "compress_frames/forward_kernel.h"
#include "compress_frames/frame_kernels.h"

namespace longreel {

FrameKernels frame_kernels_amx_bf16() { return {frames_forward<bf16, DotsAmx>, frames_backward<bf16, DotsAmx, AmxProducts>}; }

}  // namespace longreel
