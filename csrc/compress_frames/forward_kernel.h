// Forward pass over frames: scores, softmax, then one more sweep over the frame while it is still in cache.
#pragma once

#include <optional>

#include "adaptive_pool/frame_sums.h"
#include "common/exp.h"
#include "common/softmax.h"
#include "compress_frames/scores.h"

namespace longreel {
namespace {

// One worker's memory, and its way through a single frame.
template <class T, class Dots>
class FrameForward {
 public:
  using Set = PackedQueries<T, Dots>;

  // shared: the packed queries of every frame, or null where each frame has its own.
  FrameForward(const FrameProblem& problem, const FrameOutputs& outputs, const Set* shared, Arena& arena)
      : problem_(problem), outputs_(outputs), shared_(shared), reader_(frame_reader<T>(problem, arena)) {
    if (shared == nullptr) own_.emplace(problem, false, arena);
    const int64_t prompts = problem.queries.prompts;
    scores_.emplace(problem, shared == nullptr ? *own_ : *shared, arena);
    sums_.emplace(problem.pool, problem.patches.channels, longest_frame(problem), prompts, arena);
    log_sums_ = arena.take<float>(round_up(problem.queries.rows, 16));
    weights_ = arena.take<const float*>(prompts);
  }

  void run(int64_t f) {
    const int64_t prompts = problem_.queries.prompts, frames = problem_.patches.frames, channels = problem_.patches.channels;
    const FrameRows<T> x = read_frame(problem_, reader_, f);
    if (own_) own_->pack(f);
    const Set& queries = own_ ? *own_ : *shared_;
    scores_->compute(x, queries);
    for (int64_t p = 0; p < prompts; ++p) {
      float* weights = outputs_.weights + problem_.weights_at(p, f);
      make_weights(queries, p, x.count, weights, outputs_.lse + (p * frames + f) * problem_.queries.rows);
      weights_[p] = weights;
    }
    sums_->run(x.data, x.stride, x.count, weights_, static_cast<T*>(outputs_.content) + f * problem_.pool.cells() * channels);
    for (int64_t p = 0; p < prompts; ++p) {
      write_scaled(sums_->weighted(p), 1.0f, channels, static_cast<T*>(outputs_.context) + (p * frames + f) * channels);
    }
  }

 private:
  // weights [tokens] and lse [M] of prompt p, from its columns of the scores.
  void make_weights(const Set& queries, int64_t p, int64_t tokens, float* weights, float* lse) {
    std::fill_n(lse, problem_.queries.rows, -std::numeric_limits<float>::infinity());
    std::fill_n(weights, tokens, 0.0f);
    const int64_t first = queries.first(p), valid = queries.valid(p);
    if (valid == 0 || tokens == 0) return;
    softmax_mean(scores_->data() + first, scores_->stride(), tokens, valid, problem_.scale, log_sums_, weights);
    for (int64_t i = 0; i < valid; ++i) lse[queries.source(first + i)] = log_sums_[i];
  }

  const FrameProblem& problem_;
  const FrameOutputs& outputs_;
  const Set* shared_;
  std::optional<Set> own_;
  FrameReader<T> reader_;
  std::optional<FrameScores<T, Dots>> scores_;
  std::optional<FrameSums<T>> sums_;
  float* log_sums_;
  const float** weights_;
};

template <class T, class Dots>
void frames_forward(const FrameProblem& problem, const FrameOutputs& outputs, const Pool& threads) {
  using Set = PackedQueries<T, Dots>;
  const bool shared = problem.queries.sets == 1;
  Arena set_size(nullptr), worker_size(nullptr);
  const Set counted(problem, false, set_size);
  FrameForward<T, Dots>(problem, outputs, shared ? &counted : nullptr, worker_size);

  const auto [workers, grain] = frame_schedule(problem, threads);
  const Scratch scratch(set_size.used() + workers * worker_size.used());
  Arena set_arena(scratch.data());
  Set set(problem, false, set_arena);
  if (shared) set.pack(0);
  share_tiles(threads, workers, problem.patches.frames, grain, [&](int64_t worker, auto next) {
    Arena arena(scratch.data() + set_size.used() + worker * worker_size.used());
    FrameForward<T, Dots> forward(problem, outputs, shared ? &set : nullptr, arena);
    const typename Dots::Session session;
    for (int64_t begin, end; next(&begin, &end);) {
      for (int64_t f = begin; f < end; ++f) forward.run(f);
    }
  });
}

}  // namespace
}  // namespace longreel
