// Forward pass over frames: scores and weights, then the sums over the tokens while the frame is still in L2.
#include "compress_frames/cuda.h"
#include "compress_frames/cuda_plan.cuh"
#include "compress_frames/cuda_scores.cuh"
#include "compress_frames/cuda_softmax.cuh"
#include "compress_frames/cuda_sums.cuh"

namespace longreel {
namespace {

// Slices of channels that one task sums: half a frame's width keeps a block busy for longer than taking a task does.
constexpr int64_t kSlices = 2;

struct ForwardCall {
  FrameCall frames;
  FrameOutputs outputs;
};

template <class T>
struct ForwardSteps {
  const FrameCall& call;
  const FrameOutputs& outputs;

  template <class Take>
  __device__ void score(int64_t number, const Take& take) const {
    const PartOfFrame at(call, number);
    const Frame<T> frame(call, at.local);
    score_part<T>(call, frame, at.part, take);
    if (!ends_frame(call.scheduler, at.local, frame.parts)) return;
    softmax_mean<T>(call, frame, outputs);
    publish_weights(call.scheduler, at.local);
  }

  template <class Take>
  __device__ void sweep(int64_t task, const Take& take) const {
    take();
    const int64_t local = task / call.scheduler.chunk_tasks;
    const int64_t first = task % call.scheduler.chunk_tasks * kSlices;
    const int64_t slices = ceil_div(call.problem.patches.channels, Tile<T>::slice);
    for (int64_t slice = first; slice < min(first + kSlices, slices); ++slice) {
      if (call.x_packs) {
        sum_slice<T, true>(call, local, outputs, slice);
      } else {
        sum_slice<T, false>(call, local, outputs, slice);
      }
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 1) frames_forward(const __grid_constant__ ForwardCall call) {
  run_schedule(call.frames.scheduler, parts_at_hand(call.frames), ForwardSteps<T>{call.frames, call.outputs});
}

template <class T>
cudaError_t plan_forward(const FrameProblem& problem, FrameBorders borders, Arena& arena, LaunchPlan* plan) {
  Card card;
  int64_t resident = 1;
  cudaError_t error = current_card(&card);
  if (error == cudaSuccess) error = resident_blocks(frames_forward<T>, kThreads, kSharedBytes, card, &resident);
  const int64_t rows = problem.queries.prompts * problem.queries.rows;
  const int64_t tasks = ceil_div(ceil_div(problem.patches.channels, Tile<T>::slice), kSlices);
  *plan = plan_launches<T>(problem, borders, nullptr, rows, rows, 1, tasks, resident, card, arena);
  return error;
}

}  // namespace

cudaError_t compress_frames_cuda_workspace(const FrameProblem& problem, FrameBorders borders, int64_t* bytes) {
  return with_element(problem.patches.dtype, [&](auto element) {
    Arena arena(nullptr);
    LaunchPlan plan;
    const cudaError_t error = plan_forward<decltype(element)>(problem, borders, arena, &plan);
    *bytes = arena.used();
    return error;
  });
}

cudaError_t compress_frames_cuda(const FrameProblem& problem, FrameBorders borders, const FrameOutputs& outputs,
                                 void* workspace, cudaStream_t stream) {
  if (problem.patches.frames == 0) return cudaSuccess;
  return with_element(problem.patches.dtype, [&](auto element) {
    using T = decltype(element);
    Arena arena(static_cast<std::byte*>(workspace));
    LaunchPlan plan;
    const cudaError_t error = plan_forward<T>(problem, borders, arena, &plan);
    if (error != cudaSuccess) return error;
    ForwardCall call{{}, outputs};
    return run_launches(plan, borders, Tile<T>::tokens, frames_forward<T>, call, call.frames, stream);
  });
}

}  // namespace longreel
