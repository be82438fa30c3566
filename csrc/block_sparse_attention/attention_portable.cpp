#include "../common/lanes_portable.h"

#include "fp32_kernels.h"

namespace longreel {

AttentionKernels attention_kernels_portable(Dtype dtype) { return fp32_kernels(dtype); }

}  // namespace longreel
