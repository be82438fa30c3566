#include "vst/rotate_kernel.h"

namespace longreel {

RotateKernels rotate_kernels_avx2(Dtype dtype) { return rotate_kernels(dtype); }

}  // namespace longreel
