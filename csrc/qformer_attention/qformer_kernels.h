// The kernels of one instruction set, by dtype.
#pragma once

#include "qformer_attention/qformer_attention.h"

namespace longreel {

struct QFormerKernels {
  void (*forward)(const QFormerProblem&, const QFormerOutputs&, const Pool&);
  void (*backward)(const QFormerProblem&, const QFormerGradients&, const Pool&);
};

QFormerKernels qformer_kernels_portable(Dtype dtype);
QFormerKernels qformer_kernels_avx2(Dtype dtype);
QFormerKernels qformer_kernels_avx512(Dtype dtype);
// bf16, and fp32 as three bf16 numbers; fp16 runs on the avx512 kernels.
QFormerKernels qformer_kernels_amx(Dtype dtype);

}  // namespace longreel
