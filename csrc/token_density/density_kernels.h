// The kernels that each instruction set provides: one per source file density_<isa>.cpp.
#pragma once

#include "token_density/token_density.h"

namespace longreel {

using TokenDensityKernel = void (*)(const TokenDensityProblem&, const TokenDensityOutputs&, const Pool&);

TokenDensityKernel token_density_portable(Dtype dtype);
TokenDensityKernel token_density_avx2(Dtype dtype);
TokenDensityKernel token_density_avx512(Dtype dtype);
TokenDensityKernel token_density_avx512_bf16();
// bf16, and fp32 as three bf16 numbers; fp16 runs on the avx512 kernel.
TokenDensityKernel token_density_amx(Dtype dtype);

}  // namespace longreel
