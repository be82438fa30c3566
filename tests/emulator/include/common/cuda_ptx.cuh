// csrc/common/cuda_ptx.cuh, emulated: the same functions without PTX.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace longreel {

inline unsigned char* dynamic_shared() { return emulator::dynamic_shared(); }

inline void copy_async(void* to, const void* from, bool inside) { emulator::copy_async(to, from, inside); }
inline void commit_copies() { emulator::commit_copies(); }
template <int Left>
void wait_for_copies() {
  emulator::wait_for_copies(Left);
}

inline void load_matrices(uint32_t (&m)[4], const void* row) {
  const void* const* rows = emulator::exchange(row, "ldmatrix");
  const int lane = emulator::place().lane;
  for (int i = 0; i < 4; ++i) std::memcpy(&m[i], static_cast<const char*>(rows[8 * i + lane / 4]) + lane % 4 * 4, 4);
}

inline void load_transposed(uint32_t (&m)[4], const void* row) {
  const void* const* rows = emulator::exchange(row, "ldmatrix");
  const int lane = emulator::place().lane;
  for (int i = 0; i < 4; ++i) {
    for (int e = 0; e < 2; ++e) {
      const auto* const from = static_cast<const char*>(rows[8 * i + lane % 4 * 2 + e]) + lane / 4 * 2;
      std::memcpy(reinterpret_cast<char*>(&m[i]) + 2 * e, from, 2);
    }
  }
}

struct Operands {
  uint32_t a[4], b[2];
};

// sum += a b, K = 4 * `width` columns of a: register i of a holds rows g + 8 (i % 2), columns from width * (t + 4 (i / 2)) on, and
// register i of b rows from width * (t + 4 i) on of column g, of which each register packs `width`.
template <int width, class Unpack>
void multiply_add(float (&sum)[4], const Operands* lanes, const Unpack& unpack) {
  const int lane = emulator::place().lane;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double total = sum[i];
    for (int half = 0; half < 2; ++half) {
      for (int t = 0; t < 4; ++t) {
        for (int e = 0; e < width; ++e) {
          const float a = unpack(lanes[row % 8 * 4 + t].a[row / 8 + 2 * half], e);
          total += static_cast<double>(a) * unpack(lanes[column * 4 + t].b[half], e);
        }
      }
    }
    sum[i] = static_cast<float>(total);
  }
}

template <class T>
void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  const Operands* lanes = emulator::exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, "mma");
  multiply_add<2>(sum, lanes, [](uint32_t bits, int e) { return to_float(T{static_cast<uint16_t>(bits >> 16 * e)}); });
}

inline uint32_t to_tf32(float x) { return (bits_of_float(x) + 0x1000u) & 0xffffe000u; }

inline void multiply_add_tf32(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Operands* lanes = emulator::exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, "mma tf32");
  multiply_add<1>(sum, lanes, [](uint32_t bits, int) { return float_of_bits(bits & 0xffffe000u); });
}

}  // namespace longreel
