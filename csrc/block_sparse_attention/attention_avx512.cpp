#include "../common/lanes_avx512.h"

#include "fp32_kernels.h"

namespace longreel {

AttentionKernels attention_kernels_avx512(Dtype dtype) { return fp32_kernels(dtype); }

}  // namespace longreel
