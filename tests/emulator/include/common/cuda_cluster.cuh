// csrc/common/cuda_cluster.cuh, emulated: the same functions without PTX.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/cuda_ptx.cuh"

namespace longreel {

inline unsigned cluster_rank() { return emulator::place().rank; }
inline unsigned cluster_blocks() { return emulator::place().cluster; }

template <class T>
T* in_block(T* own, unsigned rank) {
  return reinterpret_cast<T*>(emulator::in_block(reinterpret_cast<uintptr_t>(own), rank));
}

inline void arrive_at_cluster() { emulator::arrive_at_cluster(); }
inline void wait_for_cluster() { emulator::wait_for_cluster(); }

using Arrival = uint64_t;

inline void init_arrival(Arrival* arrival) { emulator::init_arrival(arrival); }
inline void fence_copy_engine() {}
inline void announce_bytes(Arrival* arrival, unsigned bytes) { emulator::announce_bytes(arrival, bytes); }
inline void copy_row(void* to, const void* from, unsigned bytes, Arrival* arrival) {
  emulator::copy_row(to, from, bytes, arrival);
}
inline void wait_for_arrival(Arrival* arrival, unsigned parity) { emulator::wait_for_arrival(arrival, parity); }

}  // namespace longreel
