#include "../common/lanes_avx512.h"

#include "../common/dots.h"
#include "../common/dots_amx.h"
#include "../common/products_amx.h"
#include "backward_kernel.h"
#include "forward_kernel.h"
#include "frame_kernels.h"

namespace longreel {

FrameKernels frame_kernels_amx_bf16() { return {frames_forward<bf16, DotsAmx>, frames_backward<bf16, DotsAmx, AmxProducts>}; }

}  // namespace longreel
