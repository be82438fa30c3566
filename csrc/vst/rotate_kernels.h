// The kernels that each instruction set provides: one table per source file rotate_<isa>.cpp.
#pragma once

#include "vst/rotate.h"

namespace longreel {

struct RotateKernels {
  void (*rotate)(const RotateProblem&, const RotateOutputs&, const Pool&);
  void (*append)(const AppendProblem&, const Pool&);
};

RotateKernels rotate_kernels_portable(Dtype dtype);
RotateKernels rotate_kernels_avx2(Dtype dtype);
RotateKernels rotate_kernels_avx512(Dtype dtype);

}  // namespace longreel
