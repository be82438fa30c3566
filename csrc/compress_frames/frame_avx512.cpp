#include "compress_frames/fp32_kernels.h"

namespace longreel {

FrameKernels frame_kernels_avx512(Dtype dtype) { return fp32_kernels(dtype); }

}  // namespace longreel
