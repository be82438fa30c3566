// Blocks of a cluster (from compute capability 9.0 on): their shared memory and barrier, and rows that a copy engine brings.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/cuda_ptx.cuh"

namespace longreel {

// This block among those of its cluster, and how many those are.
__device__ inline unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ inline unsigned cluster_blocks() {
  unsigned blocks;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
  return blocks;
}

// Where `own`, in this block's shared memory, lies in that of block `rank`.
template <class T>
__device__ inline T* in_block(T* own, unsigned rank) {
  uint64_t there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(own), "r"(rank));
  return reinterpret_cast<T*>(there);
}

// The barrier of all threads of the cluster: what was written before arriving is seen after waiting.
__device__ inline void arrive_at_cluster() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ inline void wait_for_cluster() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// A barrier in shared memory whose phase ends when one thread has announced the phase's bytes and these have arrived.
using Arrival = uint64_t;

__device__ inline void init_arrival(Arrival* arrival) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(arrival)) : "memory");
}

// What this thread wrote into shared memory, arrivals among it, stands before what the copy engine does later.
__device__ inline void fence_copy_engine() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ inline void announce_bytes(Arrival* arrival, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(arrival)), "r"(bytes) : "memory");
}

// Starts to copy `bytes` bytes, a multiple of 16, between addresses that are multiples of 16.
__device__ inline void copy_row(void* to, const void* from, unsigned bytes, Arrival* arrival) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(arrival))
      : "memory");
}

// Waits until the phase of this parity, the first being 0, has ended.
__device__ inline void wait_for_arrival(Arrival* arrival, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred ended;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@!ended bra again;\n"
      "}" ::"r"(shared_address(arrival)),
      "r"(parity)
      : "memory");
}

}  // namespace longreel
