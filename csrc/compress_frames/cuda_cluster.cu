// Forward pass over frames by clusters of blocks, each with a share of the channels: one read of the patches by multiprocessors.
//
// Counted for 256 patches of 1408 bf16 channels and 32 queries, four blocks of 352 channels: a tile of 64 patches is 45 KiB a
// block, which a multiprocessor's part of 4.3 TB/s brings in 1.4 us; its scores and its weighted sum are 1.4 MFLOP each, and 24
// KiB of the other blocks' scores are read. The tile after the next is on its way meanwhile, and scores are one tile ahead of
// the softmax, so that the blocks' barrier has a product's time to pass.
#include "common/cuda_launch.cuh"
#include "common/scratch.h"
#include "compress_frames/cuda_borders.h"
#include "compress_frames/cuda_cluster.cuh"
#include "compress_frames/cuda_cluster_sums.cuh"

namespace longreel {
namespace {

template <class T, int Rows>
class Block {
 public:
  using Tile = ClusterTile<Rows>;
  using Walk = ClusterWalk<T, Rows>;

  __device__ explicit Block(const ClusterCall& call)
      : call_(call), memory_(*reinterpret_cast<ClusterMemory<T, Rows>*>(dynamic_shared())) {
    const int64_t left = call.problem.patches.channels - cluster_rank() * call.share;
    width_ = static_cast<int>(min(left, call.share));
  }

  __device__ void run() {
    prepare();
    Walk loading(call_), scoring(call_), ending(call_);
    for (int i = 0; i < Tile::stages && !loading.ended(); ++i, loading.next()) load(loading);
    if (!scoring.ended()) score(scoring);
    arrive_at_cluster();
    while (!ending.ended()) {
      scoring.next();
      if (!scoring.ended()) score(scoring);
      wait_for_cluster();
      weigh(ending);
      __syncthreads();
      if (ending.tile == 0) sums_.clear();
      sums_.add(memory_, ending.stage(), width_);
      pool_tile(ending, memory_, width_);
      if (ending.last()) end_item(ending, memory_, sums_, l_i_, width_);
      __syncthreads();
      arrive_at_cluster();
      if (!loading.ended()) {
        load(loading);
        loading.next();
      }
      ending.next();
    }
    // No block leaves while another may read its scores.
    wait_for_cluster();
  }

 private:
  // Channels beyond the share, and rows without a query, count as zeros.
  __device__ void prepare() {
    auto* const bytes = dynamic_shared();
    constexpr int clean = sizeof(memory_.x) + sizeof(memory_.queries);
    for (int i = threadIdx.x * kPackBytes; i < clean; i += kThreads * kPackBytes) {
      *reinterpret_cast<uint4*>(bytes + i) = uint4{0, 0, 0, 0};
    }
    if (threadIdx.x < Tile::stages) init_arrival(&memory_.arrivals[threadIdx.x]);
    fence_copy_engine();
    __syncthreads();
  }

  // Starts to bring the tile at `at`; rows beyond the frame are its last one, whose weights are 0.
  __device__ void load(const Walk& at) {
    if (threadIdx.x >= kLanes) return;
    const unsigned bytes = width_ * sizeof(T);
    Arrival* const arrival = &memory_.arrivals[at.stage()];
    if (threadIdx.x == 0) announce_bytes(arrival, at.tokens > 0 ? Tile::tokens * bytes : 0);
    __syncwarp();
    for (int r = threadIdx.x; r < Tile::tokens && at.tokens > 0; r += kLanes) {
      const int64_t n = min(at.tile * Tile::tokens + r, at.tokens - 1);
      copy_row(memory_.x[at.stage()][r], at.x + n * call_.problem.patches.row_stride, bytes, arrival);
    }
  }

  __device__ void load_queries(const Walk& at) {
    const Queries& q = call_.problem.queries;
    const int64_t rows = at.prompts() * q.rows, first = cluster_rank() * call_.share;
    for (int64_t i = threadIdx.x; i < Rows * width_; i += kThreads) {
      const int64_t r = i / width_, c = i % width_;
      T value = narrow<T>(0.0f);
      if (r < rows) {
        const int64_t p = at.first_prompt() + r / q.rows, m = r % q.rows;
        if (q.valid(p, at.set(), m)) {
          value = static_cast<const T*>(q.data)[q.at(p, at.set(), m) + (first + c) * q.channel_stride];
        }
      }
      memory_.queries[r][c] = value;
    }
    __syncthreads();
  }

  // This block's part of the tile's scores. Warps: all tokens, 16 each, and rows, 16 each.
  __device__ void score(const Walk& at) {
    const bool others = call_.passes > 1 || call_.problem.queries.sets > 1;
    if (at.tile == 0 && (at.step == 0 || others)) load_queries(at);
    wait_for_arrival(&memory_.arrivals[at.stage()], at.parity());
    constexpr int along = Tile::tokens / 16;
    const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
    const int token = warp % along * 16, row = warp / along * 16;
    float sum[2][4] = {};
    for (int c = 0; c < width_; c += 16) {
      uint32_t a[4], b[4];
      load_matrices(a, &memory_.x[at.stage()][token + lane % 16][c + lane / 16 * 8]);
      load_matrices(b, &memory_.queries[row + lane % 8 + lane / 16 * 8][c + lane / 8 % 2 * 8]);
      multiply_add(sum[0], a, b[0], b[1], T{});
      multiply_add(sum[1], a, b[2], b[3], T{});
    }
    auto& scores = memory_.scores[at.step % 3];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      scores[row + i / 4 * 8 + lane % 4 * 2 + i % 2][token + lane / 4 + i / 2 % 2 * 8] = sum[i / 4][i % 4];
    }
  }

  // The tile's scores, summed over the blocks, and what they weigh by the maximum so far. Every block finds the same.
  __device__ void weigh(const Walk& at) {
    const float scale = call_.problem.scale;
    const int row = threadIdx.x / Tile::row_threads, own = threadIdx.x % Tile::row_threads * 4;
    const float* const part = memory_.scores[at.step % 3][row];
    float s[8] = {};
    const unsigned blocks = cluster_blocks();
#pragma unroll 4
    for (unsigned rank = 0; rank < blocks; ++rank) {
      const float* const theirs = in_block(part, rank);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto four = load_pack<4>(theirs + half * Tile::tokens / 2 + own);
#pragma unroll
        for (int v = 0; v < 4; ++v) s[half * 4 + v] += four.lane[v];
      }
    }
    const bool first = at.tile == 0;
    float m_i = first ? -INFINITY : m_i_;
    bool real[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      real[i] = at.tile * Tile::tokens + i / 4 * Tile::tokens / 2 + own + i % 4 < at.tokens;
      if (scale < 0.0f) s[i] = -s[i];
      if (real[i]) m_i = fmaxf(m_i, s[i]);
    }
    m_i = over_row(m_i, [](float a, float b) { return fmaxf(a, b); });
    const float log2_scale = fabsf(scale) * kLog2E, alpha = first ? 0.0f : exp2f((m_i_ - m_i) * log2_scale);
    float l_i = 0.0f;
    Pack<T, 4> weights[2];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float weight = real[i] ? exp2f((s[i] - m_i) * log2_scale) : 0.0f;
      weights[i / 4].lane[i % 4] = narrow<T>(weight);
      l_i += weight;
    }
    l_i_ = (first ? 0.0f : l_i_ * alpha) + over_row(l_i, [](float a, float b) { return a + b; });
    m_i_ = m_i;
    if (own == 0) memory_.alpha[row] = alpha, memory_.m_i[row] = m_i;
    const bool keeps = at.tile % blocks == cluster_rank();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = half * Tile::tokens / 2 + own;
      *reinterpret_cast<Pack<T, 4>*>(&memory_.weights[row][token]) = weights[half];
      if (keeps) {
        const float four[4] = {s[half * 4], s[half * 4 + 1], s[half * 4 + 2], s[half * 4 + 3]};
        store_pack<4>(at.scores(at.tile) + row * Tile::tokens + token, four);
      }
    }
  }

  // Over the threads of one row of scores.
  template <class Join>
  __device__ static float over_row(float own, const Join& join) {
#pragma unroll
    for (int step = 1; step < Tile::row_threads; step *= 2) own = join(own, __shfl_xor_sync(~0u, own, step));
    return own;
  }

  const ClusterCall& call_;
  ClusterMemory<T, Rows>& memory_;
  int width_;
  float m_i_ = 0.0f, l_i_ = 0.0f;  // of this thread's row: the largest score so far, and the sum of its weights
  ClusterSums<T, Rows> sums_;
};

template <class T, int Rows>
__global__ void __launch_bounds__(kThreads, 1) frames_cluster(const __grid_constant__ ClusterCall call) {
// Clusters came with Hopper: elsewhere nothing launches it.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  Block<T, Rows>(call).run();
#endif
}

struct ClusterPlan {
  ClusterCall call = {};
  int64_t rows, blocks, most;
  int64_t* offsets;
  int64_t* first_part;
  int32_t* part_frame;

  ClusterPlan(const FrameProblem& problem, bool packed, const Card& card, Arena& arena) {
    const Patches& x = problem.patches;
    const Queries& q = problem.queries;
    call.problem = problem;
    blocks = std::max<int64_t>(1, ceil_div(x.channels, kShare));
    call.share = round_up(ceil_div(x.channels, blocks), kLane);
    rows = q.prompts * q.rows <= 32 ? 32 : kClusterRows;
    call.together = std::max<int64_t>(1, q.rows == 0 ? q.prompts : std::min(q.prompts, rows / q.rows));
    call.passes = std::max<int64_t>(1, ceil_div(q.prompts, call.together));
    most = std::min(x.frames * call.passes, std::max<int64_t>(1, card.multiprocessors / blocks));
    const int64_t tokens = 2048 / rows;
    if (packed) {
      call.scores_all = x.tokens + x.frames * tokens;
    } else {
      call.scores_each = std::max(tokens, round_up(x.tokens - problem.pool.prefix, tokens));
    }
    call.scores = arena.take<float>((call.scores_all * call.passes + call.scores_each * most) * rows);
    call.cells = arena.take<float>(most * problem.pool.cells() * x.channels);
    offsets = arena.take<int64_t>(packed ? x.frames + 1 : 0);
    first_part = arena.take<int64_t>(packed ? x.frames + 1 : 0);
    part_frame = arena.take<int32_t>(packed ? most_parts(x.tokens, x.frames, tokens) : 0);
  }
};

template <class T, int Rows>
cudaError_t launch_frames(const ClusterPlan& plan, cudaStream_t stream) {
  constexpr size_t bytes = sizeof(ClusterMemory<T, Rows>);
  static_assert(bytes <= 227 * 1024, "it fits a block of Hopper");
  return launch_clusters(frames_cluster<T, Rows>, plan.blocks, plan.most, kThreads, bytes, stream, plan.call);
}

}  // namespace

bool cluster_takes(const FrameProblem& problem) {
  const Patches& x = problem.patches;
  return x.dtype != Dtype::f32 && x.channels <= kClusterChannels && problem.queries.rows <= kClusterRows &&
         packs<__half>(x.data, x.channels, x.channel_stride, x.row_stride, x.frames > 1 ? x.frame_stride : 0);
}

cudaError_t compress_frames_cluster_workspace(const FrameProblem& problem, FrameBorders borders, int64_t* bytes) {
  Card card;
  const cudaError_t error = current_card(&card);
  Arena arena(nullptr);
  if (error == cudaSuccess) ClusterPlan(problem, borders.data != nullptr, card, arena);
  *bytes = arena.used();
  return error;
}

cudaError_t compress_frames_cluster(const FrameProblem& problem, FrameBorders borders, const FrameOutputs& outputs,
                                    void* workspace, cudaStream_t stream) {
  const Patches& x = problem.patches;
  if (x.frames == 0) return cudaSuccess;
  Card card;
  cudaError_t error = current_card(&card);
  if (error != cudaSuccess) return error;
  Arena arena(static_cast<std::byte*>(workspace));
  ClusterPlan plan(problem, borders.data != nullptr, card, arena);
  plan.call.outputs = outputs;
  if (borders.data != nullptr) {
    error = find_borders(borders, x.tokens, x.frames, 2048 / plan.rows, plan.offsets, plan.first_part, plan.part_frame, stream);
    plan.call.problem.patches.offsets = plan.offsets;
  }
  if (error != cudaSuccess) return error;
  const bool bf16 = x.dtype == Dtype::bf16;
  if (plan.rows == 32) {
    return bf16 ? launch_frames<__nv_bfloat16, 32>(plan, stream) : launch_frames<__half, 32>(plan, stream);
  }
  return bf16 ? launch_frames<__nv_bfloat16, kClusterRows>(plan, stream) : launch_frames<__half, kClusterRows>(plan, stream);
}

}  // namespace longreel
