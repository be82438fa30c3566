// V stored numbers side by side, moved as one access and computed with in fp32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "common/numbers.h"

namespace longreel {

constexpr int kPackBytes = 16;

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widen(__half x) { return __half2float(x); }

template <class T>
__device__ T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half narrow<__half>(float x) {
  return __float2half_rn(x);
}

template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T lane[V];
};

template <int V, class T>
__device__ inline Pack<T, V> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, V>*>(from);
}

template <int V, class T>
__device__ inline void store_pack(T* to, const float (&values)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.lane[v] = narrow<T>(values[v]);
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

// Returns run(T{}) for the element type.
template <class Run>
auto with_element(Dtype dtype, Run run) {
  if (dtype == Dtype::bf16) return run(__nv_bfloat16{});
  if (dtype == Dtype::f16) return run(__half{});
  return run(float{});
}

// Whether every row that starts a multiple of the given strides (in elements) from `base` can be read in whole packs.
template <class T, class... Strides>
bool packs(const void* base, int64_t channels, int64_t channel_stride, Strides... strides) {
  constexpr int64_t lanes = kPackBytes / sizeof(T);
  return channel_stride == 1 && reinterpret_cast<uintptr_t>(base) % kPackBytes == 0 && channels % lanes == 0 &&
         ((strides % lanes == 0) && ...);
}

}  // namespace longreel
