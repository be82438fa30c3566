#include "token_density/density_kernel.h"
#include "token_density/gram_amx.h"

namespace longreel {

TokenDensityKernel token_density_amx(Dtype dtype) {
  if (dtype == Dtype::bf16) return token_density<bf16, GramAmx<1>>;
  return token_density<float, GramAmx<3>>;
}

}  // namespace longreel
