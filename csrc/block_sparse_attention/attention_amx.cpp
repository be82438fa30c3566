#include "block_sparse_attention/attention_kernels.h"
#include "block_sparse_attention/backward_kernel.h"
#include "block_sparse_attention/forward_kernel.h"
#include "block_sparse_attention/pairs_amx.h"

namespace longreel {

AttentionKernels attention_kernels_amx_bf16() {
  return {attention_forward<bf16, PairedStripsAmx>, attention_backward<bf16, StripsAmx>};
}

}  // namespace longreel
