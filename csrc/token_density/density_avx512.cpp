#include "token_density/density_kernel.h"
#include "token_density/gram_registers.h"

namespace longreel {

TokenDensityKernel token_density_avx512(Dtype dtype) { return fp32_density_kernel(dtype); }

}  // namespace longreel
