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
struct Queue {
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
__device__ inline int64_t take_item(const Queue& queue, int64_t parts) {
  unsigned long long task = peek(queue.next_task);
  while (static_cast<int64_t>(task) < queue.tasks()) {
    const int64_t chunk = static_cast<int64_t>(task) / queue.chunk_tasks;
    const int64_t frames = min(queue.chunk, queue.frames - chunk * queue.chunk);
    if (peek(queue.weighed + chunk) < frames) break;
    const unsigned long long seen = atomicCAS(queue.next_task, task, task + 1);
    if (seen == task) {
      __threadfence();
      return parts + static_cast<int64_t>(task);
    }
    task = seen;
  }
  if (static_cast<int64_t>(peek(queue.next_part)) < parts) {
    const auto part = static_cast<int64_t>(atomicAdd(queue.next_part, 1ull));
    if (part < parts) return part;
  }
  return -1;
}

// For the whole block, after it wrote its part of a frame: whether all the frame's `parts` are written now.
__device__ inline bool ends_frame(const Queue& queue, int64_t frame, int64_t parts) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(queue.scored + frame, 1u) == static_cast<unsigned>(parts) - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// For the whole block, after it wrote the weights of a frame.
__device__ inline void publish_weights(const Queue& queue, int64_t frame) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(queue.weighed + frame / queue.chunk, 1u);
  }
}

// Calls pass.score(part, take) and pass.sweep(task, take); each calls take() once, when its first loads are under way.
template <class Pass>
__device__ void work_through(const Queue& queue, int64_t parts, const Pass& pass) {
  __shared__ int64_t item;
  int64_t next = -1;
  const auto take = [&] {
    if (threadIdx.x == 0) next = take_item(queue, parts);
  };
  take();
  while (true) {
    if (threadIdx.x == 0) item = next;
    __syncthreads();
    const int64_t taken = item;
    if (taken < 0) return;
    if (taken < parts) {
      pass.score(taken, take);
    } else {
      pass.sweep(taken - parts, take);
    }
    __syncthreads();
  }
}

}  // namespace longreel
