// The kernels that each instruction set provides: one table per source file attention_<isa>.cpp.
#pragma once

#include "block_sparse_attention/scheduler.h"

namespace longreel {

struct AttentionKernels {
  void (*forward)(const AttentionProblem&, const QuerySchedule&, const AttentionOutputs&, const Pool&);
  void (*backward)(const AttentionProblem&, const QuerySchedule&, const KvSchedule&, const AttentionGradients&, const Pool&);
};

AttentionKernels attention_kernels_portable(Dtype dtype);
AttentionKernels attention_kernels_avx2(Dtype dtype);
AttentionKernels attention_kernels_avx512(Dtype dtype);
// bf16 tensors only; the other types run on the avx512 kernels.
AttentionKernels attention_kernels_avx512_bf16();
AttentionKernels attention_kernels_amx_bf16();

}  // namespace longreel
