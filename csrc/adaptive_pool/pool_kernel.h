// Pooling over frames, forward and backward, for one instruction set.
#pragma once

#include "adaptive_pool/frame_sums.h"
#include "adaptive_pool/pool_kernels.h"
#include "adaptive_pool/pool_shares.h"
#include "common/frame_rows.h"

namespace longreel {
namespace {

// Element moves that make it worth waking a thread.
constexpr int64_t kPoolWorthAThread = 1 << 16;

inline int64_t pool_workers(int64_t frames, int64_t rows, int64_t channels, const Pool& threads) {
  return workers_for(threads, frames, ceil_div(kPoolWorthAThread, std::max<int64_t>(1, rows * channels)));
}

template <class T>
void pool_forward(const PoolProblem& problem, void* content, const Pool& threads) {
  const PoolWindow& pool = problem.pool;
  const int64_t channels = problem.channels, tokens = problem.tokens - pool.prefix;
  Arena size(nullptr);
  FrameReader<T>(channels, problem.channel_stride, tokens, size);
  FrameSums<T>(pool, channels, tokens, 0, size);

  const int64_t workers = pool_workers(problem.frames, problem.tokens, channels, threads);
  const Scratch scratch(workers * size.used());
  share_tiles(threads, workers, problem.frames, 1, [&](int64_t worker, auto next) {
    Arena arena(scratch.data() + worker * size.used());
    const FrameReader<T> reader(channels, problem.channel_stride, tokens, arena);
    FrameSums<T> sums(pool, channels, tokens, 0, arena);
    for (int64_t f, end; next(&f, &end);) {
      const T* first = static_cast<const T*>(problem.patches) + f * problem.frame_stride + pool.prefix * problem.row_stride;
      const FrameRows<T> x = reader.read(first, problem.row_stride, tokens);
      sums.run(x.data, x.stride, tokens, nullptr, static_cast<T*>(content) + f * pool.cells() * channels);
    }
  });
}

template <class T>
void pool_backward(const PoolGradient& problem, void* grad_patches, const Pool& threads) {
  const PoolWindow& pool = problem.pool;
  const int64_t channels = problem.channels;
  Arena size(nullptr);
  const int64_t most = PoolShares(pool, size).most();
  size.take<Term<T>>(most);

  const int64_t workers = pool_workers(problem.frames, problem.tokens, channels, threads);
  const Scratch scratch(workers * size.used());
  share_tiles(threads, workers, problem.frames, 1, [&](int64_t worker, auto next) {
    Arena arena(scratch.data() + worker * size.used());
    PoolShares shares(pool, arena);
    shares.tabulate();
    Term<T>* terms = arena.take<Term<T>>(most);
    for (int64_t f, end; next(&f, &end);) {
      const T* grad = static_cast<const T*>(problem.grad) + f * pool.cells() * channels;
      T* out = static_cast<T*>(grad_patches) + f * problem.tokens * channels;
      std::fill_n(out, pool.prefix * channels, T{});
      for (int64_t n = 0; n < problem.tokens - pool.prefix; ++n) {
        const int64_t count = shares.terms(n, grad, channels, terms);
        write_row(static_cast<const float*>(nullptr), terms, count, channels, out + (pool.prefix + n) * channels);
      }
    }
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
