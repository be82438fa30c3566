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

// Whether AVX512_BF16's products of pairs beat fp32 ones of widened rows. From Golden Cove on they take four times as long for
// twice the products (measured: 0.65 ns and 0.16 ns). A set that LONGREEL_CPU_ISA names is used as it is.
bool bf16_pairs_pay();

// Whether lines that are read soon are best fetched into the nearest cache. Golden Cove and its successors read memory faster
// into the second (measured, few fp32 rows over a cache: 20 % more), Zen 5 slower (3 to 6 %). The 32 KiB of Zen 4 hold one block of
// fp32 keys and not the next too: the second is 1.4x as fast there.
bool fetch_to_nearest();

}  // namespace longreel
