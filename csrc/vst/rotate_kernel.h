// Rotating rows and putting them where they belong, for one instruction set.
#pragma once

#include "common/rows.h"
#include "vst/rotate_kernels.h"

namespace longreel {
namespace {

constexpr int64_t kMostChannels = 256;
// Elements moved that make it worth waking a thread: some 50 us of work.
constexpr int64_t kRotateWorthAThread = 1 << 18;

// Channels of a row one behind the other: where they lie, or copied.
template <class T>
class RowBuffer {
 public:
  const T* read(const T* from, int64_t stride, int64_t channels) {
    if (stride == 1) return from;
    copy_row(from, stride, channels, data_, channels);
    return data_;
  }
  // f(to) writes the row
  template <class F>
  void write(T* to, int64_t stride, int64_t channels, F f) {
    if (stride == 1) return f(to);
    f(data_);
    for (int64_t c = 0; c < channels; ++c) to[c * stride] = data_[c];
  }

 private:
  T data_[kMostChannels];
};

// Angles of one position; sign: 1, or -1 for the opposite ones.
struct Angles {
  const float* cos;
  const float* sin;
  float sign;
};

template <class T>
inline void rotate_row(const T* x, const Angles& angles, int64_t channels, T* to) {
  const int64_t half = channels / 2;
  for_lanes(half, [&](int64_t c, int64_t count, auto whole) {
    const Lanes cos = load(angles.cos + c, count, whole), sin = splat(angles.sign) * load(angles.sin + c, count, whole);
    const Lanes first = load(x + c, count, whole), second = load(x + half + c, count, whole);
    store(to + c, first * cos - second * sin, count, whole);
    store(to + half + c, fma(second, cos, first * sin), count, whole);
  });
}

// One worker's copies of rows that do not lie in one piece.
template <class T>
class RowMover {
 public:
  explicit RowMover(int64_t channels) : channels_(channels) {}

  void rotate(const Heads& from, int64_t at, const Angles& angles, void* to, int64_t to_at, int64_t to_stride) {
    const T* x = source_.read(static_cast<const T*>(from.data) + at, from.channel_stride, channels_);
    target_.write(static_cast<T*>(to) + to_at, to_stride, channels_, [&](T* row) { rotate_row(x, angles, channels_, row); });
  }
  void copy(const Heads& from, int64_t at, void* to, int64_t to_at, int64_t to_stride) {
    const T* x = source_.read(static_cast<const T*>(from.data) + at, from.channel_stride, channels_);
    target_.write(static_cast<T*>(to) + to_at, to_stride, channels_, [&](T* row) { std::copy_n(x, channels_, row); });
  }

 private:
  int64_t channels_;
  RowBuffer<T> source_, target_;
};

template <class T>
void rotate_rows(const RotateProblem& problem, const RotateOutputs& outputs, const Pool& threads) {
  const int64_t rows = problem.rows, channels = problem.channels, half = channels / 2;
  const int64_t items = problem.batch * rows;
  const int64_t each = (problem.heads + 2 * problem.kv_heads) * channels;
  const int64_t workers = workers_for(threads, items, ceil_div(kRotateWorthAThread, std::max<int64_t>(1, each)));
  share_tiles(threads, workers, items, 16, [&](int64_t, auto next) {
    RowMover<T> mover(channels);
    for (int64_t item, end; next(&item, &end);) {
      for (; item < end; ++item) {
        const int64_t b = item / rows, row = item % rows;
        const int64_t place = problem.place[(problem.samples == 1 ? 0 : b) * rows + row];
        const int64_t at = b * problem.table.stride + place * half;
        const Angles angles = {problem.table.cos + at, problem.table.sin + at, problem.inverse ? -1.0f : 1.0f};
        const int64_t from = problem.inverse ? place : row, to = problem.inverse ? row : place;
        for (int64_t h = 0; h < problem.heads && problem.q.data != nullptr; ++h) {
          mover.rotate(problem.q, problem.q.at(b, row, h), angles, outputs.q, (item * problem.heads + h) * channels, 1);
        }
        for (int64_t h = 0; h < problem.kv_heads; ++h) {
          const int64_t own = ((b * rows + to) * problem.kv_heads + h) * channels;
          if (problem.k.data != nullptr) mover.rotate(problem.k, problem.k.at(b, from, h), angles, outputs.k, own, 1);
          if (problem.v.data != nullptr) mover.copy(problem.v, problem.v.at(b, from, h), outputs.v, own, 1);
        }
      }
    }
  });
}

template <class T>
void append_rows(const AppendProblem& problem, const Pool& threads) {
  const int64_t channels = problem.channels, half = channels / 2, items = problem.batch * problem.rows;
  const int64_t each = 2 * problem.kv_heads * channels;
  const int64_t workers = workers_for(threads, items, ceil_div(kRotateWorthAThread, std::max<int64_t>(1, each)));
  share_tiles(threads, workers, items, 16, [&](int64_t, auto next) {
    RowMover<T> mover(channels);
    for (int64_t item, end; next(&item, &end);) {
      for (; item < end; ++item) {
        const int64_t b = item / problem.rows, row = item % problem.rows, slot = problem.length[b] + row;
        const int64_t at = b * problem.table.stride + slot * half;
        const Angles angles = {problem.table.cos + at, problem.table.sin + at, 1.0f};
        for (int64_t h = 0; h < problem.kv_heads; ++h) {
          const Heads &k = problem.memory_k, &v = problem.memory_v;
          mover.rotate(problem.k, problem.k.at(b, row, h), angles, const_cast<void*>(k.data), k.at(b, slot, h),
                       k.channel_stride);
          mover.copy(problem.v, problem.v.at(b, row, h), const_cast<void*>(v.data), v.at(b, slot, h), v.channel_stride);
        }
      }
    }
  });
}

inline RotateKernels rotate_kernels(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return {rotate_rows<float>, append_rows<float>};
    case Dtype::bf16:
      return {rotate_rows<bf16>, append_rows<bf16>};
    case Dtype::f16:
      return {rotate_rows<f16>, append_rows<f16>};
  }
  return {};
}

}  // namespace
}  // namespace longreel
