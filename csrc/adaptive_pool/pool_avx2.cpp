#include "../common/lanes_avx2.h"

#include "pool_kernel.h"

namespace longreel {

PoolKernels pool_kernels_avx2(Dtype dtype) { return pool_kernels(dtype); }

}  // namespace longreel
