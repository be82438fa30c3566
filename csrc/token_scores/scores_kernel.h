// A frame at a time: from memory once, then from the nearest caches. A token is summed by itself, so that those that are the same
// score the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "common/combine.h"
#include "common/dots.h"
#include "common/frame_rows.h"
#include "common/transpose.h"
#include "token_scores/scores_kernels.h"

namespace longreel {
namespace {

// Of a length that is divided by.
constexpr float kShortest = 1e-8f;
// Element moves that make it worth waking a thread.
constexpr int64_t kScoresWorthAThread = 1 << 14;

// Rows that are scored while they are near.
constexpr int64_t kTile = 24;
// Queries that are multiplied one by one; more of them sixteen at a time.
constexpr int64_t kFewQueries = 3;

struct Squares {
  float own, both, before;
};

// x . x, x . y and y . y; without y only the first, summed in the same order
template <bool Before, class T>
inline Squares squares(const T* x, const T* y, int64_t channels) {
  Lanes own = splat(0.0f), both = splat(0.0f), before = splat(0.0f);
  for_lanes(channels, [&](int64_t c, int64_t count, auto whole) {
    const Lanes a = load(x + c, count, whole);
    own = fma(a, a, own);
    if constexpr (Before) {
      const Lanes b = load(y + c, count, whole);
      both = fma(a, b, both);
      before = fma(b, b, before);
    }
  });
  return {sum(own), Before ? sum(both) : 0.0f, Before ? sum(before) : 0.0f};
}

inline float length(float square) { return std::max(std::sqrt(square), kShortest); }

// The question, scaled: rows [M, C padded], and panels [ceil(M / 16), C, 16] where there are more than a few.
struct ScaledQueries {
  const float* rows;
  const float* panels;
  int64_t count, padded;

  static int64_t panels_of(int64_t count) { return count > kFewQueries ? ceil_div(count, 16) : 0; }
};

template <class T>
class TokenScorer {
 public:
  TokenScorer(const TokenScoresProblem& problem, Arena& arena)
      : problem_(problem),
        reader_(problem.channels, problem.channel_stride, problem.tokens, arena),
        before_(problem.channels, problem.channel_stride, problem.tokens, arena),
        given_(problem.channels, problem.before_channel_stride, problem.tokens, arena),
        panels_(ScaledQueries::panels_of(problem.queries)),
        padded_(round_up(problem.channels, 16)),
        lengths_(arena.take<float>(problem.tokens)),
        dots_(arena.take<float>(problem.tokens)),
        shares_(arena.take<float>(kTile)),
        rows_(arena.take<const T*>(kTile)),
        mean_(arena.take<float>(padded_)),
        products_(arena.take<float>(kTile * panels_ * 16)),
        wide_(panels_ == 0 || std::is_same_v<T, float> ? nullptr : arena.take<float>(kTile * padded_)) {}

  void run(int64_t f, const ScaledQueries& queries, const TokenScoresOutputs& outputs) const {
    const int64_t tokens = problem_.tokens, channels = problem_.channels;
    const FrameRows<T> x = reader_.read(frame(f), problem_.row_stride, tokens);
    const bool first = f == 0 && problem_.before == nullptr;
    const FrameRows<T> y = first   ? x
                           : f > 0 ? before_.read(frame(f - 1), problem_.row_stride, tokens)
                                   : given_.read(static_cast<const T*>(problem_.before), problem_.before_stride, tokens);
    float* const change = outputs.change + f * tokens;
    std::fill_n(mean_, padded_, 0.0f);
    for (int64_t from = 0; from < tokens; from += kTile) {
      const int64_t rows = std::min(kTile, tokens - from);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t n = from + i;
        const Squares found = first ? squares<false>(x[n], y[n], channels) : squares<true>(x[n], y[n], channels);
        rows_[i] = x[n];
        lengths_[n] = length(found.own);
        shares_[i] = 1.0f / (lengths_[n] * static_cast<float>(tokens));
        change[n] = first ? std::numeric_limits<float>::infinity() : 1.0f - found.both / (lengths_[n] * length(found.before));
      }
      multiply(x[from], x.stride, rows, queries, outputs.products + (f * tokens + from) * problem_.queries);
      combine(Coefficients{shares_, 0, 1}, 1, rows_, rows, channels, mean_, padded_);
    }
    dot_vector(x.data, x.stride, tokens, mean_, channels, dots_);
    Lanes acc = splat(0.0f);
    for (int64_t c = 0; c < padded_; c += 16) acc = fma(load(mean_ + c), load(mean_ + c), acc);
    const float own = length(sum(acc));
    for (int64_t n = 0; n < tokens; ++n) outputs.uniqueness[f * tokens + n] = 1.0f - dots_[n] / (lengths_[n] * own);
  }

 private:
  const T* frame(int64_t f) const { return static_cast<const T*>(problem_.patches) + f * problem_.frame_stride; }

  // out [rows, M]
  void multiply(const T* x, int64_t stride, int64_t rows, const ScaledQueries& queries, float* out) const {
    const int64_t channels = problem_.channels, count = queries.count;
    if (panels_ == 0) {
      for (int64_t m = 0; m < count; ++m) {
        dot_vector(x, stride, rows, queries.rows + m * padded_, channels, dots_);
        for (int64_t i = 0; i < rows; ++i) out[i * count + m] = dots_[i];
      }
      return;
    }
    const int64_t width = panels_ * 16;
    if constexpr (std::is_same_v<T, float>) {
      DotsF32::run(x, stride, rows, queries.panels, panels_, channels, products_, width);
    } else {
      for (int64_t i = 0; i < rows; ++i) copy_row(x + i * stride, 1, channels, wide_ + i * padded_, channels);
      DotsF32::run(wide_, padded_, rows, queries.panels, panels_, channels, products_, width);
    }
    for (int64_t i = 0; i < rows; ++i) std::copy_n(products_ + i * width, count, out + i * count);
  }

  const TokenScoresProblem& problem_;
  FrameReader<T> reader_, before_, given_;
  int64_t panels_, padded_;
  float* lengths_;  // [N]
  float* dots_;     // [N]
  float* shares_;
  const T** rows_;
  float* mean_;
  float* products_;  // [kTile, panels * 16]
  float* wide_;      // [kTile, C padded]
};

template <class T>
void score_tokens(const TokenScoresProblem& problem, const TokenScoresOutputs& outputs, const Pool& threads) {
  const int64_t padded = round_up(problem.channels, 16);
  Arena size(nullptr);
  TokenScorer<T>(problem, size);
  const int64_t each = std::max<int64_t>(1, problem.tokens * problem.channels);
  const int64_t workers = workers_for(threads, problem.frames, ceil_div(kScoresWorthAThread, each));
  const int64_t panels = ScaledQueries::panels_of(problem.queries), all = std::max(problem.queries, panels * 16);
  Arena counted(nullptr);
  counted.take<float>(all * padded);
  counted.take<float>(panels * problem.channels * 16);
  const Scratch scratch(counted.used() + workers * size.used());
  Arena arena(scratch.data());
  float *const rows = arena.take<float>(all * padded), *const packed = arena.take<float>(panels * problem.channels * 16);
  for (int64_t m = 0; m < problem.queries; ++m) {
    float* row = rows + m * padded;
    copy_row(static_cast<const T*>(problem.query) + m * problem.query_stride, problem.query_channel_stride, problem.channels,
             row, padded);
    for (int64_t c = 0; c < padded; ++c) row[c] *= problem.scale;
  }
  std::fill(rows + problem.queries * padded, rows + all * padded, 0.0f);
  for (int64_t p = 0; p < panels; ++p) {
    transpose_sixteen(rows + p * 16 * padded, padded * sizeof(float), problem.channels, packed + p * problem.channels * 16);
  }
  const ScaledQueries queries{rows, packed, problem.queries, padded};
  share_tiles(threads, workers, problem.frames, 1, [&](int64_t worker, auto next) {
    Arena arena(scratch.data() + counted.used() + worker * size.used());
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
