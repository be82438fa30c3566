#include "qformer_attention/backward_kernel.h"
#include "qformer_attention/forward_kernel.h"
#include "qformer_attention/products_amx.h"
#include "qformer_attention/qformer_kernels.h"

namespace longreel {

QFormerKernels qformer_kernels_amx(Dtype dtype) {
  if (dtype == Dtype::bf16) return {qformer_forward<bf16, TileProducts<1>>, qformer_backward<bf16, TileProducts<1>>};
  return {qformer_forward<float, TileProducts<3>>, qformer_backward<float, TileProducts<3>>};
}

}  // namespace longreel
