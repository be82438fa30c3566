#include "block_sparse_attention/fp32_kernels.h"

namespace longreel {

AttentionKernels attention_kernels_avx2(Dtype dtype) { return fp32_kernels(dtype); }

}  // namespace longreel
