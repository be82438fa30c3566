// The part of the CUDA runtime and of CUDA C++ that the kernels use, emulated.
#pragma once

#include "emulator.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static thread_local
#define __grid_constant__
#define __launch_bounds__(...)
// Read anew at each use: the names must stay free for members of cudaLaunchConfig_t.
template <dim3 emulator::Place::* of, unsigned dim3::* axis>
struct Coordinate {
  operator unsigned() const { return emulator::place().*of.*axis; }
};
template <dim3 emulator::Place::* of>
struct Coordinates {
  Coordinate<of, &dim3::x> x;
  Coordinate<of, &dim3::y> y;
  Coordinate<of, &dim3::z> z;
};
constexpr Coordinates<&emulator::Place::thread> threadIdx;
constexpr Coordinates<&emulator::Place::block> blockIdx;
constexpr Coordinates<&emulator::Place::block_size> blockDim;
constexpr Coordinates<&emulator::Place::grid_size> gridDim;

using std::max;
using std::min;

struct uint4 {
  uint32_t x, y, z, w;
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrL2CacheSize };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };

struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    dim3 clusterDim;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  const cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;

  unsigned cluster() const { return numAttrs == 0 ? 1 : attrs->val.clusterDim.x; }
};

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulator::card().multiprocessors : emulator::card().l2_bytes;
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  return bytes <= emulator::card().most_shared_bytes ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t* config) {
  *clusters = emulator::card().multiprocessors / static_cast<int>(config->cluster());
  return cudaSuccess;
}
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t shared_bytes) {
  *blocks = std::max(1, static_cast<int>(emulator::card().shared_bytes / std::max<size_t>(1, shared_bytes)));
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return std::memset(to, value, bytes), cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... given) {
  const dim3 &grid = config->gridDim, &block = config->blockDim;
  const unsigned cluster = config->cluster();
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > UINT16_MAX || block.x * block.y * block.z > 1024 || cluster == 0 ||
      cluster > 8 || grid.x % cluster != 0) {
    return cudaErrorInvalidValue;
  }
  std::tuple<Parameters...> arguments(std::forward<Arguments>(given)...);
  emulator::run_grid(grid, block, cluster, config->dynamicSmemBytes, [&] { std::apply(kernel, arguments); });
  return cudaSuccess;
}

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp() { emulator::exchange(0, "warp barrier"); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::exchange(value, "shuffle")[emulator::place().lane ^ mask];
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulator::exchange(value, "shuffle")[lane % emulator::kWarp];
}

template <class T>
T __ldcg(const T* from) {
  return *from;
}

inline unsigned atomicAdd(unsigned* to, unsigned value) { return __atomic_fetch_add(to, value, __ATOMIC_SEQ_CST); }
inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) {
  return __atomic_fetch_add(to, value, __ATOMIC_SEQ_CST);
}
inline unsigned long long atomicCAS(unsigned long long* at, unsigned long long expected, unsigned long long value) {
  __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return expected;
}
