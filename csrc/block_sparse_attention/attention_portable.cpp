#include "block_sparse_attention/fp32_kernels.h"

namespace longreel {

AttentionKernels attention_kernels_portable(Dtype dtype) { return fp32_kernels(dtype); }

}  // namespace longreel
