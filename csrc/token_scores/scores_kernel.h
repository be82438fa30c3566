// A frame at a time: from memory once, then from the nearest caches. A token is summed by itself, so that those that are the same
// score the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/combine.h"
#include "common/dots.h"
#include "common/frame_rows.h"
#include "token_scores/scores_kernels.h"

namespace longreel {
namespace {

// Of a length that is divided by.
constexpr float kShortest = 1e-8f;
// Element moves that make it worth waking a thread.
constexpr int64_t kScoresWorthAThread = 1 << 14;

// x . y of two rows
template <class T>
inline float dot_rows(const T* x, const T* y, int64_t channels) {
  Lanes acc = splat(0.0f);
  for_lanes(channels, [&](int64_t c, int64_t count, auto whole) {
    acc = fma(load(x + c, count, whole), load(y + c, count, whole), acc);
  });
  return sum(acc);
}

template <class T>
class TokenScorer {
 public:
  TokenScorer(const TokenScoresProblem& problem, Arena& arena)
      : problem_(problem),
        reader_(problem.channels, problem.channel_stride, problem.tokens, arena),
        before_(problem.channels, problem.channel_stride, problem.tokens, arena),
        given_(problem.channels, problem.before_channel_stride, problem.tokens, arena),
        lengths_(arena.take<float>(problem.tokens)),
        shares_(arena.take<float>(problem.tokens)),
        dots_(arena.take<float>(problem.tokens)),
        rows_(arena.take<const T*>(problem.tokens)),
        mean_(arena.take<float>(round_up(problem.channels, 16))) {}

  // queries [M, C padded], scaled
  void run(int64_t f, const float* queries, const TokenScoresOutputs& outputs) const {
    const int64_t tokens = problem_.tokens, channels = problem_.channels, padded = round_up(channels, 16);
    const FrameRows<T> x = reader_.read(frame(f), problem_.row_stride, tokens);
    for (int64_t n = 0; n < tokens; ++n) {
      rows_[n] = x[n];
      lengths_[n] = std::max(std::sqrt(dot_rows(x[n], x[n], channels)), kShortest);
      shares_[n] = 1.0f / (lengths_[n] * static_cast<float>(tokens));
    }
    change(f, x, outputs.change + f * tokens);
    for (int64_t m = 0; m < problem_.queries; ++m) {
      dot_vector(x.data, x.stride, tokens, queries + m * padded, channels, dots_);
      float* out = outputs.products + f * tokens * problem_.queries + m;
      for (int64_t n = 0; n < tokens; ++n) out[n * problem_.queries] = dots_[n];
    }
    std::fill_n(mean_, padded, 0.0f);
    combine(Coefficients{shares_, 0, 1}, 1, rows_, tokens, channels, mean_, padded);
    dot_vector(x.data, x.stride, tokens, mean_, channels, dots_);
    Lanes acc = splat(0.0f);
    for (int64_t c = 0; c < padded; c += 16) acc = fma(load(mean_ + c), load(mean_ + c), acc);
    const float length = std::max(std::sqrt(sum(acc)), kShortest);
    for (int64_t n = 0; n < tokens; ++n) outputs.uniqueness[f * tokens + n] = 1.0f - dots_[n] / (lengths_[n] * length);
  }

 private:
  const T* frame(int64_t f) const { return static_cast<const T*>(problem_.patches) + f * problem_.frame_stride; }

  void change(int64_t f, const FrameRows<T>& x, float* out) const {
    const int64_t tokens = problem_.tokens, channels = problem_.channels;
    if (f == 0 && problem_.before == nullptr) {
      std::fill_n(out, tokens, std::numeric_limits<float>::infinity());
      return;
    }
    const FrameRows<T> y = f > 0 ? before_.read(frame(f - 1), problem_.row_stride, tokens)
                                 : given_.read(static_cast<const T*>(problem_.before), problem_.before_stride, tokens);
    for (int64_t n = 0; n < tokens; ++n) {
      const float length = std::max(std::sqrt(dot_rows(y[n], y[n], channels)), kShortest);
      out[n] = 1.0f - dot_rows(x[n], y[n], channels) / (lengths_[n] * length);
    }
  }

  const TokenScoresProblem& problem_;
  FrameReader<T> reader_, before_, given_;
  float* lengths_;
  float* shares_;
  float* dots_;
  const T** rows_;
  float* mean_;
};

template <class T>
void score_tokens(const TokenScoresProblem& problem, const TokenScoresOutputs& outputs, const Pool& threads) {
  const int64_t padded = round_up(problem.channels, 16);
  Arena size(nullptr);
  TokenScorer<T>(problem, size);
  const int64_t each = std::max<int64_t>(1, problem.tokens * problem.channels);
  const int64_t workers = workers_for(threads, problem.frames, ceil_div(kScoresWorthAThread, each));
  const int64_t shared = round_up(problem.queries * padded * static_cast<int64_t>(sizeof(float)), 64);
  const Scratch scratch(shared + workers * size.used());
  float* const queries = reinterpret_cast<float*>(scratch.data());
  for (int64_t m = 0; m < problem.queries; ++m) {
    float* row = queries + m * padded;
    copy_row(static_cast<const T*>(problem.query) + m * problem.query_stride, problem.query_channel_stride, problem.channels,
             row, padded);
    for (int64_t c = 0; c < padded; ++c) row[c] *= problem.scale;
  }
  share_tiles(threads, workers, problem.frames, 1, [&](int64_t worker, auto next) {
    Arena arena(scratch.data() + shared + worker * size.used());
    const TokenScorer<T> scores(problem, arena);
    for (int64_t f, end; next(&f, &end);) scores.run(f, queries, outputs);
  });
}

inline TokenScoresKernel token_scores_kernel(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return score_tokens<float>;
    case Dtype::bf16:
      return score_tokens<bf16>;
    case Dtype::f16:
      return score_tokens<f16>;
  }
  return nullptr;
}

}  // namespace
}  // namespace longreel
