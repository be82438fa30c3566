// Launches on a stream, and what the card offers.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace longreel {

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

struct Card {
  int64_t multiprocessors, l2_bytes;
};

inline cudaError_t current_card(Card* card) {
  int device = 0, multiprocessors = 0, l2 = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device);
  *card = {multiprocessors, l2};
  return error;
}

// Lets `kernel` have that much dynamic shared memory, and says how many of its blocks the card holds at once.
template <class... Parameters>
cudaError_t resident_blocks(void (*kernel)(Parameters...), int threads, size_t shared_bytes, const Card& card,
                            int64_t* blocks) {
  const auto* entry = reinterpret_cast<const void*>(kernel);
  cudaError_t error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  int each = 0;
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, entry, threads, shared_bytes);
  *blocks = std::max<int64_t>(1, each * card.multiprocessors);
  return error;
}

// Launches clusters of `blocks` blocks: as many as the card holds at once, `most` at most.
template <class... Parameters, class... Arguments>
cudaError_t launch_clusters(void (*kernel)(Parameters...), int64_t blocks, int64_t most, int threads, size_t shared_bytes,
                            cudaStream_t stream, Arguments&&... arguments) {
  const auto* entry = reinterpret_cast<const void*>(kernel);
  cudaLaunchAttribute size = {};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim.x = static_cast<unsigned>(blocks);
  size.val.clusterDim.y = size.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &size;
  config.numAttrs = 1;
  int at_once = 0;
  cudaError_t error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&at_once, entry, &config);
  if (error != cudaSuccess) return error;
  config.gridDim.x = static_cast<unsigned>(blocks * std::min<int64_t>(std::max(1, at_once), most));
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace longreel
