#include "common/cpu_isa.h"

#include <cstdlib>
#include <stdexcept>

#if defined(LONGREEL_X86)
#include <cpuid.h>
#include <sys/syscall.h>
#endif
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

namespace longreel {
namespace {

constexpr CpuIsa kAll[] = {CpuIsa::portable, CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16, CpuIsa::amx_bf16};

#if defined(LONGREEL_X86)

bool has_amx_bf16() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24;
  if ((d & bf16) == 0 || (d & tile) == 0) return false;
#if defined(__linux__)
  // The kernel hands out the tile registers to a process that asks for them.
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

bool can_run(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::portable:
      return true;
    case CpuIsa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case CpuIsa::avx512:
      return can_run(CpuIsa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case CpuIsa::avx512_bf16:
      return can_run(CpuIsa::avx512) && __builtin_cpu_supports("avx512bf16");
    case CpuIsa::amx_bf16:
      return can_run(CpuIsa::avx512_bf16) && has_amx_bf16();
  }
  return false;
}

#else

bool can_run(CpuIsa isa) { return isa == CpuIsa::portable; }

#endif

const char* forced_isa() {
  const char* forced = std::getenv("LONGREEL_CPU_ISA");
  return forced == nullptr || *forced == '\0' ? nullptr : forced;
}

// Golden Cove and its successors are those that have AVX512_FP16.
bool golden_cove() {
#if defined(LONGREEL_X86)
  static const bool found = [] {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & 1u << 23) != 0;
  }();
  return found;
#else
  return false;
#endif
}

// Bytes of a core's nearest data cache; 0 where the system does not say.
long nearest_cache() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  return sysconf(_SC_LEVEL1_DCACHE_SIZE);
#else
  return 0;
#endif
}

std::string names(const std::vector<CpuIsa>& isas) {
  std::string text;
  for (CpuIsa isa : isas) text += (text.empty() ? "" : ", ") + std::string(name(isa));
  return text;
}

}  // namespace

const char* name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::portable:
      return "portable";
    case CpuIsa::avx2:
      return "avx2";
    case CpuIsa::avx512:
      return "avx512";
    case CpuIsa::avx512_bf16:
      return "avx512_bf16";
    case CpuIsa::amx_bf16:
      return "amx_bf16";
  }
  return "?";
}

const std::vector<CpuIsa>& available_cpu_isas() {
  static const std::vector<CpuIsa> available = [] {
    std::vector<CpuIsa> isas;
    for (CpuIsa isa : kAll) {
      if (can_run(isa)) isas.push_back(isa);
    }
    return isas;
  }();
  return available;
}

CpuIsa choose_cpu_isa() {
  const auto& available = available_cpu_isas();
  const char* forced = forced_isa();
  if (forced == nullptr) return available.back();
  for (CpuIsa isa : available) {
    if (forced == std::string(name(isa))) return isa;
  }
  throw std::runtime_error("LONGREEL_CPU_ISA=" + std::string(forced) + " cannot run here; available: " + names(available));
}

bool bf16_pairs_pay() { return forced_isa() != nullptr || !golden_cove(); }

bool fetch_to_nearest() {
  static const bool found = !golden_cove() && nearest_cache() >= 48 * 1024;
  return found;
}

}  // namespace longreel
