// The kernels that each instruction set provides: one table per source file pool_<isa>.cpp.
#pragma once

#include "adaptive_pool/adaptive_pool.h"

namespace longreel {

struct PoolKernels {
  void (*forward)(const PoolProblem&, void*, const Pool&);
  void (*backward)(const PoolGradient&, void*, const Pool&);
};

PoolKernels pool_kernels_portable(Dtype dtype);
PoolKernels pool_kernels_avx2(Dtype dtype);
PoolKernels pool_kernels_avx512(Dtype dtype);

}  // namespace longreel
