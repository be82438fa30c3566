// Which instruction sets the CPU kernels may use.
#pragma once

#include <string>
#include <vector>

namespace longreel {

// In order of preference: each one includes those before it.
enum class CpuIsa { portable, avx2, avx512, avx512_bf16, amx_bf16 };

const char* name(CpuIsa isa);

// What this build contains and this machine can run, best last.
const std::vector<CpuIsa>& available_cpu_isas();

// The best available, or the one LONGREEL_CPU_ISA names; throws std::runtime_error if that one cannot run here.
CpuIsa choose_cpu_isa();

// The same for bf16 where products are most of the work: Intel's cores multiply pairs (avx512_bf16) at half the rate of fp32, so
// that, unless it is forced, avx512 with its products in fp32 is the better one.
CpuIsa choose_cpu_isa_for_products();

}  // namespace longreel
