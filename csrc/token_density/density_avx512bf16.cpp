#include "common/dots_bf16.h"
#include "token_density/density_kernel.h"
#include "token_density/gram_registers.h"

namespace longreel {

TokenDensityKernel token_density_avx512_bf16() { return token_density<bf16, GramRegisters<bf16, StepBf16Pairs>>; }

}  // namespace longreel
