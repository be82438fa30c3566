// The order of work in a pass over frames. Blocks take parts of frames, which they score; the block that ends a frame's last
// part turns its scores into weights. Once every frame of a chunk has its weights, the chunk's tasks, which read its patches
// again, go before further parts: the patches are still in L2 then. No block ever waits for another one.
//
// A block leaves when the parts are all taken and the next chunk is not ready yet. The same launch once more, where nothing is
// left to be scored, does what remains.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/numbers.h"

namespace longreel {

constexpr int kThreads = 256;
constexpr int kLanes = 32;
constexpr int kWarps = kThreads / kLanes;

// Zero at the start, but for the sizes.
struct Scheduler {
  unsigned long long* next_part;
  unsigned long long* next_task;
  unsigned* scored;   // [frames] parts of each that have their scores
  unsigned* weighed;  // [chunks] frames of each that have their weights
  int64_t frames, chunk, chunk_tasks;

  LONGREEL_INLINE int64_t tasks() const { return ceil_div(frames, chunk) * chunk_tasks; }
};

template <class T>
__device__ inline T peek(const T* counter) {
  return *const_cast<const volatile T*>(counter);
}

// For one thread of the block: the next of `parts`, or parts + a task, or -1 where nothing can be taken.
__device__ inline int64_t next_item(const Scheduler& scheduler, int64_t parts) {
  unsigned long long task = peek(scheduler.next_task);
  while (static_cast<int64_t>(task) < scheduler.tasks()) {
    const int64_t chunk = static_cast<int64_t>(task) / scheduler.chunk_tasks;
    const int64_t frames = min(scheduler.chunk, scheduler.frames - chunk * scheduler.chunk);
    if (peek(scheduler.weighed + chunk) < frames) break;
    const unsigned long long found = atomicCAS(scheduler.next_task, task, task + 1);
    if (found == task) {
      __threadfence();
      return parts + static_cast<int64_t>(task);
    }
    task = found;
  }
  if (static_cast<int64_t>(peek(scheduler.next_part)) < parts) {
    const auto part = static_cast<int64_t>(atomicAdd(scheduler.next_part, 1ull));
    if (part < parts) return part;
  }
  return -1;
}

// For the whole block, after it wrote its part of a frame: whether all the frame's `parts` are written now.
__device__ inline bool ends_frame(const Scheduler& scheduler, int64_t frame, int64_t parts) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(scheduler.scored + frame, 1u) == static_cast<unsigned>(parts) - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// For the whole block, after it wrote the weights of a frame.
__device__ inline void publish_weights(const Scheduler& scheduler, int64_t frame) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(scheduler.weighed + frame / scheduler.chunk, 1u);
  }
}

// Calls steps.score(part, take) and steps.sweep(task, take); each calls take() once, when its first loads are under way.
template <class Steps>
__device__ void run_schedule(const Scheduler& scheduler, int64_t parts, const Steps& steps) {
  __shared__ int64_t item;
  int64_t next = -1;
  const auto take = [&] {
    if (threadIdx.x == 0) next = next_item(scheduler, parts);
  };
  take();
  while (true) {
    if (threadIdx.x == 0) item = next;
    __syncthreads();
    const int64_t taken = item;
    if (taken < 0) return;
    if (taken < parts) {
      steps.score(taken, take);
    } else {
      steps.sweep(taken - parts, take);
    }
    __syncthreads();
  }
}

}  // namespace longreel
