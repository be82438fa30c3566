// The table of one instruction set that multiplies in fp32.
#pragma once

#include "qformer_attention/backward_kernel.h"
#include "qformer_attention/forward_kernel.h"
#include "qformer_attention/products_fp32.h"
#include "qformer_attention/qformer_kernels.h"

namespace longreel {
namespace {

inline QFormerKernels qformer_fp32_kernels(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return {qformer_forward<float, QFormerVectorProducts>, qformer_backward<float, QFormerVectorProducts>};
    case Dtype::bf16:
      return {qformer_forward<bf16, QFormerVectorProducts>, qformer_backward<bf16, QFormerVectorProducts>};
    case Dtype::f16:
      return {qformer_forward<f16, QFormerVectorProducts>, qformer_backward<f16, QFormerVectorProducts>};
  }
  return {};
}

}  // namespace
}  // namespace longreel
