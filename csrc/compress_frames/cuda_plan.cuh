// How a pass is cut into launches, and where its arrays stand in the workspace.
//
// Counted for 256 patches of 1408 bf16 channels (704 KiB) and 32 queries. Scores are 2 * 32 * 1408 FLOP for 2816 bytes of a
// patch, 32 FLOP a byte: with mma.sync at half of its peak less than half of the time that the memory takes on an A100, an
// RTX 4090 or an H100; in fp32 on the FMA units (16 FLOP a byte) about as long as the memory. So bytes decide:
//   Device memory: the patches once, weights 4 bytes a patch, scores 4 bytes a patch and row written behind (5 % of the patches).
//   L2 to multiprocessors: patches twice, the queries (88 KiB) once for each part of 64 patches (176 KiB): 2.5 times the patches.
//   A block: 256 threads of about 200 registers, so one a multiprocessor; 6 stages of 16 KiB, which fit the 99 KiB of a block on
//   24 GB cards. 5 x 8 KiB of patches are on their way: 40 KiB x 132 multiprocessors hide 1 us at 5 TB/s.
// A frame comes back from L2 if all frames between their two sweeps stay there: blocks / parts are being scored, and their
// tasks go first afterwards. Blocks are therefore one a multiprocessor, but at most parts x (half of L2 / frame): 132 on an
// H100 (50 MB, 132 multiprocessors), 104 on an A100 (40 MB, 108), 188 on a 4090 (72 MB, 128).
#pragma once

#include "common/cuda_launch.cuh"
#include "common/scratch.h"
#include "compress_frames/cuda_borders.h"
#include "compress_frames/cuda_frame.cuh"

namespace longreel {

// What a pass keeps beside its outputs, scores and sums, takes about this much each, and no more for more frames: they are
// launched in turn. (Packed frames, whose lengths the host does not know, keep the scores of all.)
inline int64_t most_bytes_at_once(const Card& card) { return 3 * card.l2_bytes; }

struct LaunchPlan {
  FrameCall call;
  int64_t frames_at_once, blocks, resident, counter_bytes;
  int64_t* offsets;
  int64_t* first_part;
  int32_t* part_frame;
};

// Tokens of a frame after the prefix; their mean where frames are packed.
inline int64_t usual_tokens(const FrameProblem& problem, bool packed) {
  const Patches& x = problem.patches;
  return packed ? ceil_div(x.tokens, std::max<int64_t>(1, x.frames)) : x.tokens - problem.pool.prefix;
}

template <class T>
int64_t frame_bytes(const FrameProblem& problem, bool packed, int64_t rows) {
  const int64_t token = problem.patches.channels * static_cast<int64_t>(sizeof(T)) + rows * 4;
  return std::max<int64_t>(1, usual_tokens(problem, packed)) * token;
}

// rows: of scores, `scored` of them products with the patches; chunk: frames whose tasks are one.
template <class T>
LaunchPlan plan_launches(const FrameProblem& problem, FrameBorders borders, const void* grad_context, int64_t rows,
                         int64_t scored, int64_t chunk, int64_t chunk_tasks, int64_t resident, const Card& card, Arena& arena) {
  const Patches& x = problem.patches;
  const Queries& q = problem.queries;
  const bool packed = borders.data != nullptr;
  const int64_t frames = x.frames, tokens = usual_tokens(problem, packed), pitch = round_up(tokens, kPitch);
  LaunchPlan plan = {};
  FrameCall& call = plan.call;
  call.problem = problem;
  call.grad_context = grad_context;
  call.x_packs = packs<T>(x.data, x.channels, x.channel_stride, packed ? 0 : x.frame_stride, x.row_stride);
  call.q_packs = packs<T>(q.data, x.channels, q.channel_stride, q.prompt_stride, q.set_stride, q.row_stride) &&
                 packs<T>(grad_context, x.channels, 1);
  call.score_rows = rows;
  call.scored_rows = scored;
  call.parts = parts_of(tokens, Tile<T>::tokens);

  int64_t fitting = frames, score_tokens = 0;
  if (!packed && rows * pitch > 0) fitting = std::max(chunk, most_bytes_at_once(card) / (rows * pitch * 4) / chunk * chunk);
  plan.frames_at_once = std::min(frames, fitting);
  score_tokens = packed ? Frame<T>::packed_begin(x.tokens, frames) : plan.frames_at_once * pitch;
  call.scores = arena.take<float>(rows * score_tokens);

  Scheduler& scheduler = call.scheduler;
  scheduler.chunk = chunk;
  scheduler.chunk_tasks = chunk_tasks;
  const int64_t counters = 4 + plan.frames_at_once + ceil_div(plan.frames_at_once, chunk);
  plan.counter_bytes = counters * static_cast<int64_t>(sizeof(unsigned));
  scheduler.next_part = arena.take<unsigned long long>(ceil_div(counters, 2));
  scheduler.next_task = scheduler.next_part + 1;
  scheduler.scored = reinterpret_cast<unsigned*>(scheduler.next_part + 2);
  scheduler.weighed = scheduler.scored + plan.frames_at_once;

  plan.offsets = arena.take<int64_t>(packed ? frames + 1 : 0);
  plan.first_part = arena.take<int64_t>(packed ? frames + 1 : 0);
  plan.part_frame = arena.take<int32_t>(packed ? most_parts(x.tokens, frames, Tile<T>::tokens) : 0);

  const int64_t in_l2 = std::max<int64_t>(1, card.l2_bytes / 2 / frame_bytes<T>(problem, packed, rows));
  plan.resident = resident;
  plan.blocks = std::min(resident, call.parts * in_l2);
  return plan;
}

// Runs the pass: every launch is followed by one that does the tasks which are left (see the scheduler).
template <class Argument>
cudaError_t run_launches(LaunchPlan& plan, FrameBorders borders, int64_t part_tokens, void (*kernel)(Argument),
                         Argument& argument, FrameCall& call, cudaStream_t stream) {
  const Patches& x = call.problem.patches;
  cudaError_t error = cudaSuccess;
  call = plan.call;
  if (borders.data != nullptr) {
    error = find_borders(borders, x.tokens, x.frames, part_tokens, plan.offsets, plan.first_part, plan.part_frame, stream);
    call.problem.patches.offsets = plan.offsets;
    call.first_part = plan.first_part;
    call.part_frame = plan.part_frame;
  }
  for (int64_t first = 0; first < x.frames && error == cudaSuccess; first += plan.frames_at_once) {
    call.first_frame = first;
    call.scheduler.frames = std::min(plan.frames_at_once, x.frames - first);
    error = cudaMemsetAsync(call.scheduler.next_part, 0, static_cast<size_t>(plan.counter_bytes), stream);
    for (const int64_t blocks : {plan.blocks, plan.resident}) {
      if (error != cudaSuccess) break;
      error = launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), kSharedBytes, stream, argument);
    }
  }
  return error;
}

// The part of a frame that is number `part` of the pass.
struct PartOfFrame {
  int64_t local, part;

  __device__ PartOfFrame(const FrameCall& call, int64_t number) {
    if (call.part_frame != nullptr) {
      local = call.part_frame[number];
      part = number - call.first_part[local];
    } else {
      local = number / call.parts;
      part = number % call.parts;
    }
  }
};

__device__ inline int64_t parts_at_hand(const FrameCall& call) {
  return call.first_part != nullptr ? call.first_part[call.scheduler.frames] : call.parts * call.scheduler.frames;
}

}  // namespace longreel
