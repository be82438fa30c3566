#include "qformer_attention/backward_kernel.h"
#include "qformer_attention/forward_kernel.h"
#include "qformer_attention/products_bf16.h"
#include "qformer_attention/products_fp32.h"
#include "qformer_attention/qformer_kernels.h"

namespace longreel {

QFormerKernels qformer_kernels_avx512_bf16() {
  return {qformer_forward<bf16, QFormerPairProducts>, qformer_backward<bf16, QFormerVectorProducts>};
}

}  // namespace longreel
