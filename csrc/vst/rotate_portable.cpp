#include "vst/rotate_kernel.h"

namespace longreel {

RotateKernels rotate_kernels_portable(Dtype dtype) { return rotate_kernels(dtype); }

}  // namespace longreel
