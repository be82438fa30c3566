#include "vst/rotate_kernel.h"

namespace longreel {

RotateKernels rotate_kernels_avx512(Dtype dtype) { return rotate_kernels(dtype); }

}  // namespace longreel
