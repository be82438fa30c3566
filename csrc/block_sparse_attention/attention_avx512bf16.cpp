#include "block_sparse_attention/attention_kernels.h"
#include "block_sparse_attention/backward_kernel.h"
#include "block_sparse_attention/forward_kernel.h"
#include "block_sparse_attention/strips_bf16.h"

namespace longreel {

AttentionKernels attention_kernels_avx512_bf16() {
  return {attention_forward<bf16, StripsBf16>, attention_backward<bf16, StripsBf16>};
}

}  // namespace longreel
