// Backward pass over frames: scores again, the softmax's gradient, then the queries' gradient while the frame is still in L2,
// and the patches' gradient, which needs the scores' gradient and the queries only.
//
// The queries' gradient of a chunk of frames is one sum; chunks are joined in order by a second kernel.
//
// Counted as for the forward pass: device memory reads the patches once and writes their gradient once (sums of 16 frames: 180
// KiB for 11 MiB of patches); L2 gives the patches twice, the queries for every part, the scores' gradient (32 KiB) for each of
// 6 slices of channels; three products of 2 * 32 * 1408 FLOP a patch, two of them in tf32 at half the rate of bf16.
#include "compress_frames/cuda.h"
#include "compress_frames/cuda_plan.cuh"
#include "compress_frames/cuda_products.cuh"
#include "compress_frames/cuda_scores.cuh"
#include "compress_frames/cuda_softmax_backward.cuh"

namespace longreel {
namespace {

// Frames that share one sum of the queries' gradient, at most, unless the sums would be too many.
constexpr int64_t kMostInChunk = 16;

struct BackwardCall {
  FrameCall frames;
  FrameGradients gradients;
  float* query_sums;    // [chunks, P M, C], where the queries are shared
  int64_t slices;       // of the channels
  int64_t query_tasks;  // of a chunk; then come the patches' tasks, `slices` for each of its frames
};

template <class T>
struct BackwardSteps {
  const BackwardCall& own;
  const FrameCall& call = own.frames;
  const FrameProblem& problem = call.problem;

  struct Step {
    const FrameCall* call;
    const float* scores;
    int64_t pitch, floats;
    int64_t line, lines;     // the first line, and how many there are in all
    int64_t skipped, after;  // lines from `after` on stand `skipped` further
    const T* x;              // the first stored row; where it is null, they are the queries of a frame
    int64_t row_step, channel_step, rows, queries_of;

    __device__ const float* coefficients(int i) const {
      const int64_t r = line + i;
      return r < lines ? scores + (r < after ? r : r + skipped) * pitch : nullptr;
    }
    __device__ Row<T> row(int k) const {
      if (k >= rows) return {nullptr, 0};
      return x == nullptr ? query_row<T>(*call, queries_of, line + k) : Row<T>{x + k * row_step, channel_step};
    }
  };

  template <class Take>
  __device__ void score(int64_t number, const Take& take) const {
    const PartOfFrame at(call, number);
    const Frame<T> frame(call, at.local);
    score_part<T>(call, frame, at.part, take);
    if (!ends_frame(call.scheduler, at.local, frame.parts)) return;
    if (call.score_rows > 0) softmax_mean_backward<T>(call, frame, own.gradients.grad_weights);
    publish_weights(call.scheduler, at.local);
  }

  template <class Take>
  __device__ void sweep(int64_t task, const Take& take) const {
    const int64_t chunk = task / call.scheduler.chunk_tasks, number = task % call.scheduler.chunk_tasks;
    if (number < own.query_tasks) {
      sum_queries(chunk, number / own.slices, number % own.slices, take);
    } else {
      const int64_t local = chunk * call.scheduler.chunk + (number - own.query_tasks) / own.slices;
      if (local < call.scheduler.frames) {
        write_patches(Frame<T>(call, local), number % own.slices, take);
      } else {
        take();
      }
    }
  }

  // sum over the chunk's tokens of ds_mn x_n, for 32 queries and a slice of channels
  template <class Take>
  __device__ void sum_queries(int64_t chunk, int64_t tile, int64_t slice, const Take& take) const {
    const Patches& patches = problem.patches;
    const Queries& q = problem.queries;
    const int64_t begin = chunk * call.scheduler.chunk, end = min(begin + call.scheduler.chunk, call.scheduler.frames);
    const int64_t rows = q.prompts * q.rows;
    int64_t steps = 0;
    for (int64_t local = begin; local < end; ++local) steps += ceil_div(Frame<T>(call, local).tokens, kProductSide);
    int64_t local = begin, first = 0;
    const auto at = [&](int64_t, int64_t) {
      while (local < end && first >= Frame<T>(call, local).tokens) ++local, first = 0;
      if (local == end) return Step{};
      const Frame<T> frame(call, local);
      const Step step{&call,
                      frame.scores + first,
                      frame.pitch,
                      frame.pitch - first,
                      tile * kProductSide,
                      rows,
                      0,
                      rows,
                      frame.x + first * patches.row_stride,
                      patches.row_stride,
                      patches.channel_stride,
                      frame.tokens - first,
                      0};
      first += kProductSide;
      return step;
    };
    const auto depth = [](int64_t) { return kProductSide; };
    const auto emit = [&](int64_t, int m, int64_t c, const float (&values)[4]) {
      const int64_t r = tile * kProductSide + m;
      if (r >= rows) return;
      if (q.sets == 1) {
        const int64_t sum = call.first_frame / call.scheduler.chunk + chunk;
        store_channels(own.query_sums + (sum * rows + r) * patches.channels, values, c, patches.channels);
      } else {
        const int64_t p = r / q.rows, row = (p * patches.frames + call.first_frame + begin) * q.rows + r % q.rows;
        store_channels(static_cast<T*>(own.gradients.grad_query) + row * patches.channels, values, c, patches.channels);
      }
    };
    run_products<T, false>(call, 1, max(steps, int64_t{1}), slice * Tile<T>::slice, call.x_packs, at, depth, emit, take);
  }

  // sum_m ds_mn q_m + sum_p w_pn grad_context_p + the shares of the cells, for a slice of channels of all tokens of a frame
  template <class Take>
  __device__ void write_patches(const Frame<T>& frame, int64_t slice, const Take& take) const {
    const Patches& patches = problem.patches;
    const PoolWindow& pool = problem.pool;
    const int64_t channels = patches.channels, channel = slice * Tile<T>::slice, lines = call.scored_rows;
    const int64_t first_row = patches.offsets == nullptr ? frame.index * patches.tokens : patches.first_row(frame.index);
    T* const out = static_cast<T*>(own.gradients.grad_patches) + first_row * channels;
    for (int64_t i = threadIdx.x; i < pool.prefix * Tile<T>::slice; i += kThreads) {
      const int64_t c = channel + i % Tile<T>::slice;
      if (c < channels) out[i / Tile<T>::slice * channels + c] = narrow<T>(0.0f);
    }
    const int64_t steps = max(ceil_div(lines, kProductSide), int64_t{1});
    const int64_t queries = problem.queries.prompts * problem.queries.rows;
    const auto at = [&](int64_t tile, int64_t step) {
      const int64_t first = tile * kProductSide, line = step * kProductSide;
      return Step{&call,
                  frame.scores + first,
                  frame.pitch,
                  frame.pitch - first,
                  line,
                  lines,
                  problem.queries.prompts,
                  queries,
                  nullptr,
                  0,
                  0,
                  lines - line,
                  frame.index};
    };
    const auto depth = [&](int64_t step) { return static_cast<int>(min(lines - step * kProductSide, int64_t{kProductSide})); };
    const T* const grad_content = static_cast<const T*>(own.gradients.grad_content);
    const auto emit = [&](int64_t tile, int m, int64_t c, const float (&values)[4]) {
      const int64_t n = tile * kProductSide + m;
      if (n >= frame.tokens || c >= channels) return;
      float total[4];
#pragma unroll
      for (int v = 0; v < 4; ++v) total[v] = values[v];
      if (grad_content != nullptr) add_shares(total, grad_content + frame.index * pool.cells() * channels, n, c);
      store_channels(out + (pool.prefix + n) * channels, total, c, channels);
    };
    run_products<T, true>(call, ceil_div(frame.tokens, kProductSide), steps, channel, call.q_packs, at, depth, emit, take);
  }

  // Adds to four channels of token n what its cells' gradient [cells, C] gives it.
  __device__ void add_shares(float (&total)[4], const T* grad, int64_t n, int64_t c) const {
    const PoolWindow& pool = problem.pool;
    const int64_t y = n / pool.pitch, x = n % pool.pitch;
    if (y >= pool.height || x >= pool.width) return;
    const Interval is = PoolWindow::cells_of_token(y, pool.height, pool.out_height);
    const Interval js = PoolWindow::cells_of_token(x, pool.width, pool.out_width);
    for (int64_t i = is.begin; i < is.end; ++i) {
      const int64_t height = PoolWindow::tokens_of_cell(i, pool.height, pool.out_height).size();
      for (int64_t j = js.begin; j < js.end; ++j) {
        const int64_t width = PoolWindow::tokens_of_cell(j, pool.width, pool.out_width).size();
        const float share = 1.0f / static_cast<float>(height * width);
        const T* const from = grad + (i * pool.out_width + j) * problem.patches.channels + c;
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          if (c + v < problem.patches.channels) total[v] = fmaf(share, widen(from[v]), total[v]);
        }
      }
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 1) frames_backward(const __grid_constant__ BackwardCall call) {
  run_schedule(call.frames.scheduler, parts_at_hand(call.frames), BackwardSteps<T>{call});
}

// grad_query [count] = the sum of its chunks, in order
template <class T>
__global__ void __launch_bounds__(kThreads)
    join_chunks(const float* __restrict__ sums, int64_t chunks, int64_t count, T* __restrict__ grad_query) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  float total = 0.0f;
  for (int64_t first = 0; first < chunks; first += 16) {
    float part = 0.0f;
    for (int64_t chunk = first; chunk < min(first + 16, chunks); ++chunk) part += sums[chunk * count + i];
    total += part;
  }
  grad_query[i] = narrow<T>(total);
}

struct BackwardPlan {
  LaunchPlan frames;
  BackwardCall call;
  int64_t chunks, query_count;
  bool sums_queries;
};

template <class T>
cudaError_t plan_backward(const FrameProblem& problem, FrameBorders borders, const FrameGradients& gradients, Arena& arena,
                          BackwardPlan* plan) {
  Card card;
  int64_t resident = 1;
  cudaError_t error = current_card(&card);
  if (error == cudaSuccess) error = resident_blocks(frames_backward<T>, kThreads, kSharedBytes, card, &resident);
  const Queries& q = problem.queries;
  const Patches& x = problem.patches;
  const bool attended = gradients.grad_context != nullptr || gradients.grad_weights != nullptr;
  const int64_t queries = q.prompts * q.rows, scored = attended ? queries + q.prompts : 0;
  const int64_t rows = attended ? scored + q.prompts : 0, slices = ceil_div(x.channels, Tile<T>::slice);
  const bool sums_queries = gradients.grad_query != nullptr && attended && queries > 0 && x.frames > 0;
  int64_t chunk = 1;
  if (sums_queries && q.sets == 1) {
    const int64_t in_l2 = card.l2_bytes / 4 / frame_bytes<T>(problem, borders.data != nullptr, rows);
    const int64_t most_sums = std::max<int64_t>(1, most_bytes_at_once(card) / (queries * x.channels * 4));
    chunk = std::max(std::clamp<int64_t>(in_l2, 1, kMostInChunk), ceil_div(x.frames, most_sums));
  }
  plan->sums_queries = sums_queries;
  plan->chunks = ceil_div(x.frames, chunk);
  plan->query_count = q.prompts * q.sets * q.rows * x.channels;
  plan->call = {};
  plan->call.gradients = gradients;
  plan->call.slices = slices;
  plan->call.query_tasks = sums_queries ? ceil_div(queries, kProductSide) * slices : 0;
  const int64_t patch_tasks = gradients.grad_patches != nullptr ? chunk * slices : 0;
  plan->frames = plan_launches<T>(problem, borders, gradients.grad_context, rows, scored, chunk,
                                  plan->call.query_tasks + patch_tasks, resident, card, arena);
  plan->call.query_sums = arena.take<float>(sums_queries && q.sets == 1 ? plan->chunks * plan->query_count : 0);
  return error;
}

}  // namespace

cudaError_t compress_frames_backward_cuda_workspace(const FrameProblem& problem, FrameBorders borders,
                                                    const FrameGradients& gradients, int64_t* bytes) {
  return with_element(problem.patches.dtype, [&](auto element) {
    Arena arena(nullptr);
    BackwardPlan plan;
    const cudaError_t error = plan_backward<decltype(element)>(problem, borders, gradients, arena, &plan);
    *bytes = arena.used();
    return error;
  });
}

cudaError_t compress_frames_backward_cuda(const FrameProblem& problem, FrameBorders borders, const FrameGradients& gradients,
                                          void* workspace, cudaStream_t stream) {
  return with_element(problem.patches.dtype, [&](auto element) {
    using T = decltype(element);
    Arena arena(static_cast<std::byte*>(workspace));
    BackwardPlan plan;
    cudaError_t error = plan_backward<T>(problem, borders, gradients, arena, &plan);
    const int64_t count = plan.query_count;
    if (error == cudaSuccess && gradients.grad_query != nullptr && !plan.sums_queries) {
      error = cudaMemsetAsync(gradients.grad_query, 0, static_cast<size_t>(count) * sizeof(T), stream);
    }
    if (error != cudaSuccess || plan.frames.call.scheduler.chunk_tasks == 0) return error;
    error = run_launches(plan.frames, borders, Tile<T>::tokens, frames_backward<T>, plan.call, plan.call.frames, stream);
    if (error == cudaSuccess && plan.sums_queries && problem.queries.sets == 1) {
      error = launch(join_chunks<T>, dim3(static_cast<unsigned>(ceil_div(count, kThreads))), dim3(kThreads), 0, stream,
                     plan.call.query_sums, plan.chunks, count, static_cast<T*>(gradients.grad_query));
    }
    return error;
  });
}

}  // namespace longreel
