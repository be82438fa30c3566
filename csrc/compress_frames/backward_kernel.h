// Backward pass over frames: scores again, the softmax's gradient, then both products from one read of the frame.
#pragma once

#include <optional>

#include "adaptive_pool/pool_shares.h"
#include "common/combine.h"
#include "common/dots.h"
#include "common/exp.h"
#include "common/products.h"
#include "common/softmax.h"
#include "compress_frames/scores.h"

namespace longreel {
namespace {

// One worker's memory, and its way through a single frame. Dots makes the scores, Products what follows from their gradient.
template <class T, class Dots, class Products>
class FrameBackward {
 public:
  using Set = PackedQueries<T, Dots>;

  // shared: the packed queries of every frame, or null where each frame has its own.
  FrameBackward(const FrameProblem& problem, const FrameGradients& gradients, const Set* shared, Arena& arena)
      : problem_(problem), gradients_(gradients), shared_(shared), reader_(frame_reader<T>(problem, arena)) {
    const int64_t prompts = problem.queries.prompts, longest = longest_frame(problem);
    padded_ = round_up(problem.patches.channels, 16);
    if (shared == nullptr) own_.emplace(problem, true, arena);
    const int64_t columns = (shared == nullptr ? *own_ : *shared).capacity();
    scores_.emplace(problem, shared == nullptr ? *own_ : *shared, arena);
    own_sums_ = shared == nullptr && gradients.grad_query != nullptr ? arena.take<float>(columns * padded_) : nullptr;
    log_sums_ = arena.take<float>(round_up(problem.queries.rows, 16));
    grad_weights_ = arena.take<float>(longest);
    weights_ = arena.take<float>(prompts * longest);
    grad_context_ = arena.take<float>(padded_);
    products_.emplace(longest, columns, problem.patches.channels, arena);
    tokens_ = arena.take<float>(Products::tokens * padded_);
    const PoolWindow& pool = problem.pool;
    shares_.emplace(pool.height, pool.width, pool.out_height, pool.out_width, arena);
    terms_ = arena.take<Term<T>>(prompts + PoolShares::most(down(), across()));
    longest_ = longest;
  }

  // To be called once the shared queries are packed, before run().
  void start() {
    shares_->tabulate(down(), across(), problem_.pool.pitch);
    if (shared_ != nullptr) products_->set_queries(shared_->rows(), shared_->columns());
  }

  // query_sums [columns, C padded]: where the frame's share of the queries' gradient is added, or null.
  void run(int64_t f, float* query_sums) {
    const FrameRows<T> x = read_frame(problem_, reader_, f);
    if (own_) {
      own_->pack(f);
      products_->set_queries(own_->rows(), own_->columns());
    }
    const Set& queries = own_ ? *own_ : *shared_;
    const bool given = gradients_.grad_context != nullptr || gradients_.grad_weights != nullptr;
    const bool attended = given && x.count > 0 && queries.columns() > 0;
    if (attended) {
      scores_->compute(x, queries);
      for (int64_t p = 0; p < problem_.queries.prompts; ++p) make_ds(queries, p, f, x);
      products_->set_ds(scores_->data(), x.count);
    }
    if (own_sums_ != nullptr) {
      query_sums = own_sums_;
      std::fill_n(query_sums, queries.columns() * padded_, 0.0f);
    }
    if (attended && query_sums != nullptr) products_->add_query_sums(x, query_sums);
    if (own_sums_ != nullptr) write_query(queries, f);
    if (gradients_.grad_patches != nullptr) write_patches(f, x, attended);
  }

 private:
  PoolAxis down() const { return {problem_.pool.height, problem_.pool.out_height, false}; }
  PoolAxis across() const { return {problem_.pool.width, problem_.pool.out_width, false}; }

  const T* grad_context(int64_t p, int64_t f) const {
    return static_cast<const T*>(gradients_.grad_context) + (p * problem_.patches.frames + f) * problem_.patches.channels;
  }

  // The scores of prompt p become ds; its weights are recomputed.
  void make_ds(const Set& queries, int64_t p, int64_t f, const FrameRows<T>& x) {
    const int64_t channels = problem_.patches.channels, first = queries.first(p), valid = queries.valid(p);
    float* weights = weights_ + p * longest_;
    std::fill_n(weights, x.count, 0.0f);
    if (valid == 0) return;
    if (gradients_.grad_context == nullptr) {
      std::fill_n(grad_weights_, x.count, 0.0f);
    } else {
      copy_row(grad_context(p, f), 1, channels, grad_context_, padded_);
      dot_vector(x.data, x.stride, x.count, grad_context_, channels, grad_weights_);
    }
    if (gradients_.grad_weights != nullptr) {
      const float* given = gradients_.grad_weights + problem_.weights_at(p, f);
      for (int64_t n = 0; n < x.count; ++n) grad_weights_[n] += given[n];
    }
    const float* lse = gradients_.lse + (p * problem_.patches.frames + f) * problem_.queries.rows;
    for (int64_t i = 0; i < valid; ++i) log_sums_[i] = lse[queries.source(first + i)];
    softmax_mean_backward(scores_->data() + first, scores_->stride(), x.count, valid, problem_.scale, log_sums_, grad_weights_,
                          weights);
  }

  void write_query(const Set& queries, int64_t f) {
    const int64_t channels = problem_.patches.channels, rows = problem_.queries.rows;
    for (int64_t p = 0; p < problem_.queries.prompts; ++p) {
      T* out = static_cast<T*>(gradients_.grad_query) + (p * problem_.queries.sets + f) * rows * channels;
      std::fill_n(out, rows * channels, T{});
      for (int64_t i = queries.first(p); i < queries.first(p) + queries.valid(p); ++i) {
        write_scaled(own_sums_ + i * padded_, 1.0f, channels, out + queries.source(i) * channels);
      }
    }
  }

  // x_n's gradient: sum_m ds_mn q_m + sum_p w_pn grad_context_p + its cells' shares
  void write_patches(int64_t f, const FrameRows<T>& x, bool attended) {
    const Patches& patches = problem_.patches;
    const int64_t channels = patches.channels, prefix = problem_.pool.prefix, cells = problem_.pool.cells();
    const int64_t first_row = patches.offsets == nullptr ? f * patches.tokens : patches.first_row(f);
    T* out = static_cast<T*>(gradients_.grad_patches) + first_row * channels;
    std::fill_n(out, prefix * channels, T{});
    const T* grad_content = static_cast<const T*>(gradients_.grad_content);
    for (int64_t n = 0; n < x.count; n += Products::tokens) {
      const int64_t count = std::min(Products::tokens, x.count - n);
      if (attended) products_->token_rows(n, count, tokens_);
      for (int64_t i = n; i < n + count; ++i) {
        int64_t terms = 0;
        if (attended && gradients_.grad_context != nullptr) {
          for (int64_t p = 0; p < problem_.queries.prompts; ++p) {
            terms_[terms++] = {weights_[p * longest_ + i], grad_context(p, f)};
          }
        }
        if (grad_content != nullptr) {
          terms += shares_->terms(i, grad_content + f * cells * channels, channels, 1, terms_ + terms);
        }
        write_row(attended ? tokens_ + (i - n) * padded_ : nullptr, terms_, terms, channels, out + (prefix + i) * channels);
      }
    }
  }

  const FrameProblem& problem_;
  const FrameGradients& gradients_;
  const Set* shared_;
  std::optional<Set> own_;
  FrameReader<T> reader_;
  std::optional<FrameScores<T, Dots>> scores_;
  int64_t padded_, longest_;
  float* own_sums_;
  float* log_sums_;
  float* grad_weights_;
  float* weights_;
  float* grad_context_;
  std::optional<Products> products_;
  float* tokens_;
  std::optional<PoolShares> shares_;
  Term<T>* terms_;
};

// grad_query [P, 1, M, C] from the chunks' sums
template <class T, class Dots>
void join_chunks(const FrameProblem& problem, const PackedQueries<T, Dots>& queries, const QueryChunks& chunks,
                 const float* sums, const float** rows, float* acc, T* grad_query) {
  const int64_t channels = problem.patches.channels, padded = round_up(channels, 16);
  std::fill_n(grad_query, problem.queries.prompts * problem.queries.rows * channels, T{});
  const float one = 1.0f;
  for (int64_t p = 0; p < problem.queries.prompts; ++p) {
    for (int64_t i = queries.first(p); i < queries.first(p) + queries.valid(p); ++i) {
      for (int64_t chunk = 0; chunk < chunks.count; ++chunk) rows[chunk] = sums + chunk * chunks.size + i * padded;
      std::fill_n(acc, padded, 0.0f);
      combine(Coefficients{&one, 0, 0}, 1, rows, chunks.count, channels, acc, padded);
      write_scaled(acc, 1.0f, channels, grad_query + (p * problem.queries.rows + queries.source(i)) * channels);
    }
  }
}

template <class T, class Dots, class Products>
void frames_backward(const FrameProblem& problem, const FrameGradients& gradients, const Pool& threads) {
  using Set = PackedQueries<T, Dots>;
  const int64_t frames = problem.patches.frames, padded = round_up(problem.patches.channels, 16);
  const bool shared = problem.queries.sets == 1, chunked = shared && gradients.grad_query != nullptr;
  Arena common_size(nullptr), worker_size(nullptr);
  const Set counted(problem, true, common_size);
  const QueryChunks chunks(frames, counted.capacity() * padded);
  const auto workspace = [&](Arena& arena) { return arena.take<float>(chunked ? chunks.count * chunks.size : 0); };
  const auto joined_rows = [&](Arena& arena) { return arena.take<const float*>(chunked ? chunks.count : 0); };
  const auto joined = [&](Arena& arena) { return arena.take<float>(chunked ? padded : 0); };
  workspace(common_size), joined_rows(common_size), joined(common_size);
  FrameBackward<T, Dots, Products>(problem, gradients, shared ? &counted : nullptr, worker_size);

  const auto [workers, grain] = frame_schedule(problem, threads);
  const Scratch scratch(common_size.used() + workers * worker_size.used());
  Arena common(scratch.data());
  Set set(problem, true, common);
  float* const sums = workspace(common);
  const float** const rows = joined_rows(common);
  float* const acc = joined(common);
  if (shared) set.pack(0);
  const int64_t tiles = chunked ? chunks.count : frames;
  share_tiles(threads, workers, tiles, chunked ? 1 : grain, [&](int64_t worker, auto next) {
    Arena arena(scratch.data() + common_size.used() + worker * worker_size.used());
    FrameBackward<T, Dots, Products> backward(problem, gradients, shared ? &set : nullptr, arena);
    backward.start();
    const typename Dots::Session session;
    for (int64_t begin, end; next(&begin, &end);) {
      if (!chunked) {
        for (int64_t f = begin; f < end; ++f) backward.run(f, nullptr);
        continue;
      }
      float* const chunk_sums = sums + begin * chunks.size;
      std::fill_n(chunk_sums, chunks.size, 0.0f);
      for (int64_t f = chunks.begin(begin); f < chunks.begin(begin + 1); ++f) backward.run(f, chunk_sums);
    }
  });
  if (chunked) join_chunks(problem, set, chunks, sums, rows, acc, static_cast<T*>(gradients.grad_query));
}

}  // namespace
}  // namespace longreel
