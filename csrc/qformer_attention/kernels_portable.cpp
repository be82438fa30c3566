#include "qformer_attention/fp32_kernels.h"

namespace longreel {

QFormerKernels qformer_kernels_portable(Dtype dtype) { return qformer_fp32_kernels(dtype); }

}  // namespace longreel
