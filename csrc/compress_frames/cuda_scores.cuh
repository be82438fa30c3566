// Scores of one part of a frame: x_n . q_r for its tokens n and every row r, through a ring of stages in shared memory.
#pragma once

#include "compress_frames/cuda_frame.cuh"

namespace longreel {

// Where chunk c of row r stands in a tile: rotated, so that eight rows of one chunk lie in different banks.
template <class T>
__device__ inline int chunk_at(int r, int c) {
  return (r * Tile<T>::chunks + (c ^ (r & 7))) * kPackBytes;
}

// Sums of a tile on the tensor cores. Warps: four along the tokens, 16 each, two along the rows, alternate groups of 16.
template <class T>
class ScoreTile {
 public:
  __device__ void add(const unsigned char* x, const unsigned char* q, int rows) {
    const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
#pragma unroll
    for (int k = 0; k < Tile<T>::chunks; k += 2) {
      uint32_t a[4], b[4];
      load_matrices(a, x + chunk_at<T>(warp % 4 * 16 + lane % 16, k + lane / 16));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int first = (warp / 4 + 2 * j) * 16;
        if (first >= rows) break;
        load_matrices(b, q + chunk_at<T>(first + lane % 8 + lane / 16 * 8, k + lane / 8 % 2));
        multiply_add(sum_[j][0], a, b[0], b[1], T{});
        multiply_add(sum_[j][1], a, b[2], b[3], T{});
      }
    }
  }

  // Calls emit(token, row, score) for the whole tile; the shared memory is free.
  template <class Emit>
  __device__ void write(unsigned char*, const Emit& emit) const {
    const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int j = i / 8, tile = i / 4 % 2, e = i % 4;
      emit(warp % 4 * 16 + lane / 4 + e / 2 * 8, (warp / 4 + 2 * j) * 16 + tile * 8 + lane % 4 * 2 + e % 2, sum_[j][tile][e]);
    }
  }

 private:
  float sum_[2][2][4] = {};
};

// In fp32: four groups of 64 threads take a quarter of the channels each, a thread 4 tokens x 4 rows. A stage's channels are
// summed on their own before they join the total: long sums would lose too much for sharp rows.
template <>
class ScoreTile<float> {
 public:
  __device__ void add(const unsigned char* x, const unsigned char* q, int) {
    float part[4][4] = {};
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int chunk = threadIdx.x / kGroup * kOwn + k;
      Pack<float, 4> own[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) own[j] = load_pack<4>(reinterpret_cast<const float*>(x + chunk_at<float>(token(j), chunk)));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto with = load_pack<4>(reinterpret_cast<const float*>(q + chunk_at<float>(row(i), chunk)));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int v = 0; v < 4; ++v) part[i][j] = fmaf(own[j].lane[v], with.lane[v], part[i][j]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) sum_[i / 4][i % 4] += part[i / 4][i % 4];
  }

  template <class Emit>
  __device__ void write(unsigned char* shared, const Emit& emit) const {
    constexpr int size = Tile<float>::rows * Tile<float>::tokens;
    float* const parts = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      parts[threadIdx.x / kGroup * size + row(i / 4) * Tile<float>::tokens + token(i % 4)] = sum_[i / 4][i % 4];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += kThreads) {
      float total = 0.0f;
#pragma unroll
      for (int group = 0; group < kThreads / kGroup; ++group) total += parts[group * size + i];
      emit(i % Tile<float>::tokens, i / Tile<float>::tokens, total);
    }
    __syncthreads();
  }

 private:
  static constexpr int kGroup = 64;
  static constexpr int kOwn = Tile<float>::chunks / (kThreads / kGroup);

  __device__ static int token(int j) { return threadIdx.x % 8 + 8 * j; }
  __device__ static int row(int i) { return threadIdx.x % kGroup / 8 + 8 * i; }

  float sum_[4][4] = {};
};

// Scores [row][token] of `part`; negated for the queries where the scale is negative, so that the largest always wins.
template <class T, class Take>
__device__ void score_part(const FrameCall& call, const Frame<T>& frame, int64_t part, const Take& take) {
  constexpr int kCopies = Tile<T>::copies, kTileBytes = Tile<T>::stage_bytes / 2;
  const Patches& patches = call.problem.patches;
  const int64_t first = part * Tile<T>::tokens;
  const int64_t queries = call.problem.queries.prompts * call.problem.queries.rows;
  const int steps = static_cast<int>(ceil_div(patches.channels, Tile<T>::channels));
  unsigned char* const shared = dynamic_shared();
  if (call.scored_rows == 0 || frame.tokens == 0) take();
  Row<T> x[kCopies], q[kCopies];
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const int64_t n = first + (threadIdx.x + i * kThreads) / Tile<T>::chunks;
    x[i] = {n < frame.tokens ? frame.x + n * patches.row_stride : nullptr, patches.channel_stride};
  }
  for (int64_t r = 0; r < (frame.tokens == 0 ? 0 : call.scored_rows); r += Tile<T>::rows) {
    const int rows = static_cast<int>(min(call.scored_rows - r, int64_t{Tile<T>::rows}));
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = (threadIdx.x + i * kThreads) / Tile<T>::chunks;
      q[i] = row < rows ? query_row<T>(call, frame.index, r + row) : Row<T>{nullptr, 0};
    }
    const auto load = [&](int step) {
      unsigned char* const stage = shared + step % kStages * Tile<T>::stage_bytes;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int at = threadIdx.x + i * kThreads, row = at / Tile<T>::chunks, chunk = at % Tile<T>::chunks;
        const int64_t c = int64_t{step} * Tile<T>::channels + chunk * Tile<T>::lane;
        copy_chunk(call, stage + chunk_at<T>(row, chunk), x[i], c, call.x_packs);
        if (row < round_up(rows, 16)) copy_chunk(call, stage + kTileBytes + chunk_at<T>(row, chunk), q[i], c, call.q_packs);
      }
    };
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < steps) load(step);
      commit_copies();
    }
    if (r == 0) take();
    ScoreTile<T> tile;
    for (int step = 0; step < steps; ++step) {
      wait_for_copies<kStages - 2>();
      __syncthreads();
      if (step + kStages - 1 < steps) load(step + kStages - 1);
      commit_copies();
      const unsigned char* const stage = shared + step % kStages * Tile<T>::stage_bytes;
      tile.add(stage, stage + kTileBytes, rows);
    }
    wait_for_copies<0>();
    __syncthreads();
    tile.write(shared, [&](int token, int row, float score) {
      const int64_t n = first + token;
      if (n >= frame.tokens || row >= rows) return;
      frame.scores[(r + row) * frame.pitch + n] = call.problem.scale < 0.0f && r + row < queries ? -score : score;
    });
  }
}

}  // namespace longreel
