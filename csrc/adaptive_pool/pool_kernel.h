// Pooling of pictures, forward and backward, for one instruction set.
#pragma once

#include "adaptive_pool/pool_kernels.h"
#include "adaptive_pool/pool_shares.h"
#include "common/combine.h"
#include "common/scratch.h"

namespace longreel {
namespace {

// Element moves that make it worth waking a thread.
constexpr int64_t kPoolWorthAThread = 1 << 16;

// f(picture, number of the tile in it) for tiles begin <= tile < end of all pictures; ends: a picture's last tile and one.
template <class F>
inline void each_tile(const PoolPictures& pictures, int64_t PoolPicture::* ends, int64_t begin, int64_t end, const F& f) {
  int64_t p = 0;
  for (int64_t step = pictures.count; step > 0; step /= 2) {
    while (p + step <= pictures.count && pictures.data[p + step - 1].*ends <= begin) p += step;
  }
  for (int64_t tile = begin; tile < end; ++tile) {
    while (pictures.data[p].*ends <= tile) ++p;
    f(pictures.data[p], tile - (p == 0 ? 0 : pictures.data[p - 1].*ends));
  }
}

inline int64_t tiles_of(const PoolPictures& pictures, int64_t PoolPicture::* ends) {
  return pictures.count == 0 ? 0 : pictures.data[pictures.count - 1].*ends;
}

// Shares tiles that move `elements` in all among threads: body(worker, begin, end).
template <class Make>
void share_pool(int64_t tiles, int64_t elements, const Pool& threads, int64_t bytes, const Make& make) {
  const int64_t each = std::max<int64_t>(1, elements / std::max<int64_t>(1, tiles));
  const int64_t grain = std::clamp<int64_t>(kPoolWorthAThread / each, 1, std::max<int64_t>(1, tiles / 16));
  const int64_t workers = workers_for(threads, tiles, ceil_div(kPoolWorthAThread, each));
  const Scratch scratch(workers * bytes);
  share_tiles(threads, workers, tiles, grain, [&](int64_t worker, auto next) {
    Arena arena(scratch.data() + worker * bytes);
    auto run = make(arena);
    for (int64_t begin, end; next(&begin, &end);) run(begin, end);
  });
}

// Weighted sums of tokens, `kCombineChain` at a time.
template <class T>
class CellSum {
 public:
  CellSum(const PoolProblem& problem, Arena& arena)
      : problem_(problem),
        rows_(arena.take<const T*>(kCombineChain)),
        coefficients_(arena.take<float>(kCombineChain)),
        sum_(arena.take<float>(round_up(problem.channels, 16))),
        copies_(problem.channel_stride == 1 ? nullptr : arena.take<T>(kCombineChain * problem.channels)) {}

  void start() { std::fill_n(sum_, round_up(problem_.channels, 16), 0.0f); }

  void add(const T* row, float coefficient) {
    if (copies_ != nullptr) {
      T* copy = copies_ + count_ * problem_.channels;
      copy_row(row, problem_.channel_stride, problem_.channels, copy, problem_.channels);
      row = copy;
    }
    rows_[count_] = row;
    coefficients_[count_++] = coefficient;
    if (count_ == kCombineChain) flush();
  }

  void write(int64_t divisor, T* out) {
    flush();
    write_scaled(sum_, 1.0f / static_cast<float>(divisor), problem_.channels, out);
  }

 private:
  void flush() {
    combine(Coefficients{coefficients_, 0, 1}, 1, rows_, count_, problem_.channels, sum_, 0);
    count_ = 0;
  }

  const PoolProblem& problem_;
  const T** rows_;
  float* coefficients_;
  float* sum_;
  T* copies_;
  int64_t count_ = 0;
};

// A tile is a row of cells.
template <class T>
void pool_forward(const PoolProblem& problem, void* content, const Pool& threads) {
  const int64_t channels = problem.channels;
  int64_t elements = 0;
  for (const PoolPicture& one : problem.pictures) {
    elements +=
        channels * std::max(one.time.out * one.down.out * one.across.out, one.time.size * one.down.size * one.across.size);
  }
  Arena size(nullptr);
  CellSum<T>(problem, size);
  share_pool(tiles_of(problem.pictures, &PoolPicture::cell_rows), elements, threads, size.used(), [&](Arena& arena) {
    return [&, sum = CellSum<T>(problem, arena)](int64_t begin, int64_t end) mutable {
      each_tile(problem.pictures, &PoolPicture::cell_rows, begin, end, [&](const PoolPicture& one, int64_t tile) {
        const int64_t k = tile / one.down.out, i = tile % one.down.out;
        const Interval frames = one.time.tokens_of_cell(k), rows = one.down.tokens_of_cell(i);
        const T* first = static_cast<const T*>(problem.patches) + one.from + one.prefix * problem.row_stride;
        T* out = static_cast<T*>(content) + (one.to + tile * one.across.out) * channels;
        for (int64_t j = 0; j < one.across.out; ++j) {
          const Interval columns = one.across.tokens_of_cell(j);
          sum.start();
          for (int64_t t = frames.begin; t < frames.end; ++t) {
            for (int64_t y = rows.begin; y < rows.end; ++y) {
              const float row = one.down.coefficient(i, y);
              for (int64_t x = columns.begin; x < columns.end; ++x) {
                sum.add(first + t * one.frame_step + (y * one.pitch + x) * problem.row_stride,
                        row * one.across.coefficient(j, x));
              }
            }
          }
          sum.write(frames.size() * one.down.divisor(i) * one.across.divisor(j), out + j * channels);
        }
      });
    };
  });
}

// A tile is a frame.
template <class T>
void pool_backward(const PoolGradient& problem, void* grad_patches, const Pool& threads) {
  const int64_t channels = problem.channels;
  int64_t elements = 0, most = 0, height = 0, width = 0, out_height = 0, out_width = 0;
  for (const PoolPicture& one : problem.pictures) {
    elements += channels * one.time.size * one.rows;
    most = std::max(most, one.time.most_cells() * PoolShares::most(one.down, one.across));
    height = std::max(height, one.down.size), width = std::max(width, one.across.size);
    out_height = std::max(out_height, one.down.out), out_width = std::max(out_width, one.across.out);
  }
  Arena size(nullptr);
  PoolShares(height, width, out_height, out_width, size);
  size.take<Term<T>>(most);
  share_pool(tiles_of(problem.pictures, &PoolPicture::frames), elements, threads, size.used(), [&](Arena& arena) {
    PoolShares shares(height, width, out_height, out_width, arena);
    Term<T>* terms = arena.take<Term<T>>(most);
    return [&, shares, terms](int64_t begin, int64_t end) mutable {
      each_tile(problem.pictures, &PoolPicture::frames, begin, end, [&](const PoolPicture& one, int64_t t) {
        shares.tabulate(one.down, one.across, one.pitch);
        const Interval frames = one.time.cells_of_token(t);
        const int64_t plane = one.down.out * one.across.out;
        T* out = static_cast<T*>(grad_patches) + (one.from + t * one.frame_step) * channels;
        std::fill_n(out, one.prefix * channels, T{});
        for (int64_t n = 0; n < one.rows - one.prefix; ++n) {
          int64_t count = 0;
          for (int64_t k = frames.begin; k < frames.end; ++k) {
            const T* grad = static_cast<const T*>(problem.grad) + (one.to + k * plane) * channels;
            count += shares.terms(n, grad, channels, one.time.divisor(k), terms + count);
          }
          write_row(static_cast<const float*>(nullptr), terms, count, channels, out + (one.prefix + n) * channels);
        }
      });
    };
  });
}

inline PoolKernels pool_kernels(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return {pool_forward<float>, pool_backward<float>};
    case Dtype::bf16:
      return {pool_forward<bf16>, pool_backward<bf16>};
    case Dtype::f16:
      return {pool_forward<f16>, pool_backward<f16>};
  }
  return {};
}

}  // namespace
}  // namespace longreel
