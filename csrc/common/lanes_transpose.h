// The transpose for instruction sets without a register file for it: unit by unit.
#pragma once

namespace longreel {
namespace {

// to [16, 16] = the transpose of sixteen rows of sixteen 32-bit units, `row` units apart
inline void transpose(const void* from, int64_t row, void* to) {
  uint32_t units[16];
  for (int i = 0; i < 16; ++i) {
    std::memcpy(units, static_cast<const uint32_t*>(from) + i * row, sizeof units);
    for (int c = 0; c < 16; ++c) std::memcpy(static_cast<uint32_t*>(to) + c * 16 + i, units + c, sizeof *units);
  }
}

}  // namespace
}  // namespace longreel
