// Products of fp32 coefficients with stored rows: out [32, slice] = sum over k of a [32, k] row_k, 32 rows at a time through a
// ring of stages. On the tensor cores the coefficients are rounded to tf32 (the stored 16-bit numbers are exact there, and fp16
// would not hold coefficients below 6e-8); for fp32 rows everything is.
#pragma once

#include "compress_frames/cuda_frame.cuh"

namespace longreel {

constexpr int kProductSide = 32;  // rows of an output, and of a step
constexpr int kProductStages = 4;

// A stage: coefficients [32][pitch], then rows [32][512 bytes + 32], so that what lanes read lies in different banks.
// Across: the coefficients come as [k][m], else as [m][k].
template <bool Across>
struct ProductStage {
  static constexpr int pitch = Across ? 40 : 36;
  static constexpr int row_bytes = kLanes * kPackBytes + 32;
  static constexpr int coefficient_bytes = kProductSide * pitch * 4;
  static constexpr int bytes = coefficient_bytes + kProductSide * row_bytes;
  static_assert(bytes * kProductStages <= kSharedBytes);
};

// Sums of an output on the tensor cores: a warp has 32 channels. Channel pairs are read at once: one column of a product is
// the even channel of each pair, another the odd one, so that a lane ends up with four neighbours.
template <class T, bool Across>
class ProductSums {
 public:
  __device__ void add(const unsigned char* stage, int depth) {
    using Stage = ProductStage<Across>;
    const int warp = threadIdx.x / kLanes, g = threadIdx.x % kLanes / 4, t = threadIdx.x % 4;
    const auto* const a = reinterpret_cast<const float*>(stage);
    const unsigned char* const rows = stage + Stage::coefficient_bytes;
#pragma unroll
    for (int k = 0; k < kProductSide; k += 8) {
      if (k >= depth) break;
      uint32_t coefficients[2][4];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int m = i / 4 * 16 + g + i % 2 * 8, at = k + t + i % 4 / 2 * 4;
        coefficients[i / 4][i % 4] = to_tf32(a[Across ? at * Stage::pitch + m : m * Stage::pitch + at]);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int c = warp * 32 + j * 16 + 2 * g;
        const auto upper = load_pack<2>(reinterpret_cast<const T*>(rows + (k + t) * Stage::row_bytes) + c);
        const auto lower = load_pack<2>(reinterpret_cast<const T*>(rows + (k + t + 4) * Stage::row_bytes) + c);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const uint32_t b0 = bits_of_float(widen(upper.lane[e])), b1 = bits_of_float(widen(lower.lane[e]));
          multiply_add_tf32(sum_[0][j][e], coefficients[0], b0, b1);
          multiply_add_tf32(sum_[1][j][e], coefficients[1], b0, b1);
        }
      }
    }
  }

  // Calls emit(m, c, values) for four channels from c on, and starts afresh.
  template <class Emit>
  __device__ void write(const Emit& emit) {
    const int warp = threadIdx.x / kLanes, g = threadIdx.x % kLanes / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int half = i / 4, below = i / 2 % 2, j = i % 2;
      float values[4];
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        values[v] = sum_[half][j][v % 2][2 * below + v / 2];
        sum_[half][j][v % 2][2 * below + v / 2] = 0.0f;
      }
      emit(half * 16 + g + 8 * below, warp * 32 + j * 16 + 4 * t, values);
    }
  }

 private:
  float sum_[2][2][2][4] = {};
};

// In fp32 a warp has four rows of the output, a lane four channels. The rows of a step are summed on their own.
template <bool Across>
class ProductSums<float, Across> {
 public:
  __device__ void add(const unsigned char* stage, int depth) {
    using Stage = ProductStage<Across>;
    const int first = threadIdx.x / kLanes * 4, lane = threadIdx.x % kLanes;
    const auto* const a = reinterpret_cast<const float*>(stage);
    const unsigned char* const rows = stage + Stage::coefficient_bytes + lane * kPackBytes;
    float part[4][4] = {};
    for (int k = 0; k < depth; k += 4) {
      // [4 m][4 k], or [4 k][4 m] where Across
      Pack<float, 4> coefficients[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        coefficients[i] = load_pack<4>(a + (Across ? (k + i) * Stage::pitch + first : (first + i) * Stage::pitch + k));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto row = load_pack<4>(reinterpret_cast<const float*>(rows + (k + i) * Stage::row_bytes));
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          const float coefficient = Across ? coefficients[i].lane[m] : coefficients[m].lane[i];
#pragma unroll
          for (int v = 0; v < 4; ++v) part[m][v] = fmaf(coefficient, row.lane[v], part[m][v]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) sum_[i / 4][i % 4] += part[i / 4][i % 4];
  }

  template <class Emit>
  __device__ void write(const Emit& emit) {
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      emit(threadIdx.x / kLanes * 4 + m, threadIdx.x % kLanes * 4, sum_[m]);
#pragma unroll
      for (int v = 0; v < 4; ++v) sum_[m][v] = 0.0f;
    }
  }

 private:
  float sum_[4][4] = {};
};

// A step: thirty-two lines of coefficients, and as many stored rows, each null where it is zero.
//   coefficients(i): line i, of which `floats` exist;  row(k)
// Runs `outputs` products of `steps` steps each for the channels from `channel` on. at(output, step) finds a step, one after
// another, and depth(step) says how many of its k there are; emit(output, m, c, values) takes four channels of a result.
template <class T, bool Across, class At, class Depth, class Emit, class Take>
__device__ void run_products(const FrameCall& call, int64_t outputs, int64_t steps, int64_t channel, bool rows_pack,
                             const At& at, const Depth& depth, const Emit& emit, const Take& take) {
  using Stage = ProductStage<Across>;
  unsigned char* const shared = dynamic_shared();
  const int line = threadIdx.x / 8, part = threadIdx.x % 8, warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  int64_t next_output = 0, next_step = 0;
  int filled = 0;
  const auto load = [&] {
    if (next_output < outputs) {
      unsigned char* const stage = shared + filled * Stage::bytes;
      const auto from = at(next_output, next_step);
      const float* const coefficients = from.coefficients(line);
      const bool inside = coefficients != nullptr && 4 * part < from.floats;
      copy_async(stage + (line * Stage::pitch + 4 * part) * 4, inside ? coefficients + 4 * part : call.scores, inside);
#pragma unroll
      for (int i = 0; i < kProductSide / kWarps; ++i) {
        const int k = warp + i * kWarps;
        copy_chunk<T>(call, stage + Stage::coefficient_bytes + k * Stage::row_bytes + lane * kPackBytes, from.row(k),
                      channel + lane * Tile<T>::lane, rows_pack);
      }
      filled = (filled + 1) % kProductStages;
      if (++next_step == steps) ++next_output, next_step = 0;
    }
    commit_copies();
  };
#pragma unroll 1
  for (int i = 0; i < kProductStages - 1; ++i) load();
  take();
  ProductSums<T, Across> sums;
  int used = 0;
  for (int64_t output = 0; output < outputs; ++output) {
    for (int64_t step = 0; step < steps; ++step) {
      wait_for_copies<kProductStages - 2>();
      __syncthreads();
      load();
      sums.add(shared + used * Stage::bytes, depth(step));
      used = (used + 1) % kProductStages;
    }
    sums.write([&](int m, int c, const float (&values)[4]) { emit(output, m, channel + c, values); });
  }
  wait_for_copies<0>();
  __syncthreads();
}

}  // namespace longreel
