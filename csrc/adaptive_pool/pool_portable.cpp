#include "adaptive_pool/pool_kernel.h"

namespace longreel {

PoolKernels pool_kernels_portable(Dtype dtype) { return pool_kernels(dtype); }

}  // namespace longreel
