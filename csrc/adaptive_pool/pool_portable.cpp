#include "../common/lanes_portable.h"

#include "pool_kernel.h"

namespace longreel {

PoolKernels pool_kernels_portable(Dtype dtype) { return pool_kernels(dtype); }

}  // namespace longreel
