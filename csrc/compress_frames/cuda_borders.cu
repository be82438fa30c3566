#include "compress_frames/cuda_borders.h"

#include "common/cuda_launch.cuh"

namespace longreel {
namespace {

constexpr int kScanThreads = 1024;

// values[i] = join(values[0], ..., values[i]), for one value of every thread.
template <class Join>
__device__ int64_t scan(int64_t* values, int64_t own, const Join& join) {
  values[threadIdx.x] = own;
  __syncthreads();
  for (unsigned step = 1; step < kScanThreads; step *= 2) {
    const int64_t joined = threadIdx.x >= step ? join(values[threadIdx.x - step], own) : own;
    __syncthreads();
    values[threadIdx.x] = own = joined;
    __syncthreads();
  }
  return own;
}

// One block; each round finds the borders of 1024 frames.
__global__ void __launch_bounds__(kScanThreads)
    borders_and_parts(FrameBorders borders, int64_t total, int64_t frames, int64_t part_tokens, int64_t* __restrict__ offsets,
                      int64_t* __restrict__ first_part, int32_t* __restrict__ part_frame) {
  __shared__ int64_t values[kScanThreads];
  const auto border = [&](int64_t f) {
    const int64_t given = borders.wide ? static_cast<const int64_t*>(borders.data)[f * borders.step]
                                       : static_cast<const int32_t*>(borders.data)[f * borders.step];
    return min(max(given, int64_t{0}), total);
  };
  int64_t begin = border(0), parts = 0;
  if (threadIdx.x == 0) {
    offsets[0] = begin;
    first_part[0] = 0;
  }
  for (int64_t round = 0; round < frames; round += kScanThreads) {
    const int64_t f = round + threadIdx.x;
    const auto later = [](int64_t a, int64_t b) { return max(a, b); };
    const int64_t end = max(begin, scan(values, f < frames ? border(f + 1) : 0, later));
    const int64_t own_begin = threadIdx.x == 0 ? begin : max(begin, values[threadIdx.x - 1]);
    begin = max(begin, values[kScanThreads - 1]);
    __syncthreads();
    const int64_t own_parts = f < frames ? parts_of(end - own_begin, part_tokens) : 0;
    const int64_t end_part = parts + scan(values, own_parts, [](int64_t a, int64_t b) { return a + b; });
    parts += values[kScanThreads - 1];
    __syncthreads();
    if (f >= frames) continue;
    offsets[f + 1] = end;
    first_part[f + 1] = end_part;
    for (int64_t part = end_part - own_parts; part < end_part; ++part) part_frame[part] = static_cast<int32_t>(f);
  }
}

}  // namespace

cudaError_t find_borders(FrameBorders borders, int64_t total, int64_t frames, int64_t part_tokens, int64_t* offsets,
                         int64_t* first_part, int32_t* part_frame, cudaStream_t stream) {
  return launch(borders_and_parts, dim3(1), dim3(kScanThreads), 0, stream, borders, total, frames, part_tokens, offsets,
                first_part, part_frame);
}

}  // namespace longreel
