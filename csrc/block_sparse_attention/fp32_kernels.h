// The table of one instruction set whose products are computed in fp32.
#pragma once

#include "block_sparse_attention/attention_kernels.h"
#include "block_sparse_attention/backward_kernel.h"
#include "block_sparse_attention/forward_kernel.h"
#include "block_sparse_attention/strips_fp32.h"

namespace longreel {
namespace {

template <class T, class P>
AttentionKernels kernels_of() {
  return {attention_forward<T, P>, attention_backward<T, P>};
}

inline AttentionKernels fp32_kernels(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return kernels_of<float, StripsFp32>();
    case Dtype::bf16:
      return kernels_of<bf16, StripsFp32>();
    case Dtype::f16:
      return kernels_of<f16, StripsFp32>();
  }
  return {};
}

}  // namespace
}  // namespace longreel
