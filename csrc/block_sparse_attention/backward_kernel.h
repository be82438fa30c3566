// Backward pass: a sweep over query rows makes dq and the rows' norms, one over keys makes dk and dv.
#pragma once

#include "block_sparse_attention/backward_dkv.h"
#include "block_sparse_attention/backward_dq.h"

namespace longreel {
namespace {

// Where the sums of ds q and p dout of G's KV blocks stay until all are made: [B, Hkv, rows, 2, width].
struct GlobalSums {
  float* data;
  int64_t rows, width, kv_heads;

  float* at(int64_t b, int64_t kv_head, int64_t row) const {
    return data + ((b * kv_heads + kv_head) * rows + row) * 2 * width;
  }
};

// Sums over the KV blocks of global key g are added to key_sum and value_sum, KV block after KV block.
inline void add_global(const AttentionProblem& problem, const KvSchedule& schedule, const GlobalSums& sums, int64_t b,
                       int64_t kv_head, int64_t g, float* key_sum, float* value_sum) {
  const int64_t sample = problem.layout.samples == 1 ? 0 : b;
  const Span kv_blocks = schedule.blocks_of.data()[sample * problem.global_keys + g];
  for (int64_t u = kv_blocks.begin; u < kv_blocks.end; ++u) {
    const float* from = sums.at(b, kv_head, schedule.row_of.data()[u] + g - problem.layout.kv_blocks[u].key_begin);
    for (int64_t c = 0; c < sums.width; c += 16) {
      store(key_sum + c, load(key_sum + c) + load(from + c));
      store(value_sum + c, load(value_sum + c) + load(from + sums.width + c));
    }
  }
}

template <class T>
struct KeyGradients {
  T* k;
  T* v;
  int64_t rows, kv_heads, channels;

  // dk and dv of a row; null sums are zeros
  void write(int64_t b, int64_t row, int64_t kv_head, float scale, const float* key_sum, const float* value_sum) const {
    const int64_t at = ((b * rows + row) * kv_heads + kv_head) * channels;
    if (key_sum == nullptr) {
      std::fill_n(k + at, channels, T{});
      std::fill_n(v + at, channels, T{});
    } else {
      write_scaled(key_sum, scale, channels, k + at);
      write_scaled(value_sum, 1.0f, channels, v + at);
    }
  }
};

template <class T, class P>
void attention_backward(const AttentionProblem& problem, const QuerySchedule& queries, const KvSchedule& keys,
                        const AttentionGradients& gradients, const Pool& threads) {
  const int64_t copies = schedule_copies(problem), kv_heads = problem.kv_heads,
                width = round_up(problem.channels, 16 * P::pair);
  const bool want_keys = gradients.grad_k != nullptr, own_global = problem.own_global();
  const bool want_global = own_global ? gradients.grad_global_k != nullptr : want_keys;
  const float scale = std::abs(problem.scale);

  Arena counted(nullptr), row_size(nullptr), query_size(nullptr), key_size(nullptr);
  const int64_t global_rows = keys.row_of.data()[problem.layout.kv_block_count];
  const auto take_sums = [&](Arena& arena) {
    const int64_t count = want_global ? problem.batch * kv_heads * global_rows * 2 * width : 0;
    return GlobalSums{arena.take<float>(count), global_rows, width, kv_heads};
  };
  const RowTerms no_terms(problem, gradients, counted);
  take_sums(counted);
  RowTermMaker<T, P>(problem, gradients, no_terms, row_size);
  BackwardDq<T, P>(problem, gradients, no_terms, queries.most_strips, query_size);
  BackwardDkv<T, P>(problem, gradients, no_terms, keys.most_blocks, keys.most_strips, key_size);
  const int64_t row_bytes = 2 * width * static_cast<int64_t>(sizeof(float));
  const int64_t worker_bytes = std::max({row_size.used(), query_size.used(), key_size.used(), row_bytes});

  // f(own, item) for every item, each worker with memory of its own
  const int64_t most = std::max<int64_t>(1, queries.multiplications >> 18);
  const int64_t most_workers = std::min(threads.threads, most);
  const Scratch scratch(counted.used() + most_workers * worker_bytes);
  Arena shared(scratch.data());
  const RowTerms terms(problem, gradients, shared);
  const GlobalSums sums = take_sums(shared);
  const auto for_items = [&](int64_t items, int64_t grain, auto make_worker, auto f) {
    const int64_t workers = std::min(most_workers, std::max<int64_t>(1, ceil_div(items, grain)));
    share_tiles(threads, workers, items, grain, [&](int64_t worker, auto next) {
      Arena arena(scratch.data() + counted.used() + worker * worker_bytes);
      auto own = make_worker(arena);
      const typename P::Session session;
      for (int64_t begin, end; next(&begin, &end);) {
        for (int64_t item = begin; item < end; ++item) f(own, item);
      }
    });
  };
  const auto rows_of_floats = [&](Arena& arena) { return arena.take<float>(2 * width); };
  const auto sample_of_copy = [&](int64_t sample, int64_t copy) {
    return problem.layout.samples == 1 ? copy / kv_heads : sample;
  };

  const int64_t strips = ceil_div(problem.queries, kStrip);
  for_items(
      problem.batch * strips * problem.heads, 64,
      [&](Arena& arena) { return RowTermMaker<T, P>(problem, gradients, terms, arena); },
      [&](RowTermMaker<T, P>& maker, int64_t item) {
        const int64_t head = item % problem.heads, row = item / problem.heads % strips * kStrip;
        maker.run(item / problem.heads / strips, head, {row, std::min(problem.queries, row + kStrip)});
      });

  const int64_t heads_each = copies * kv_heads;
  const bool sweep_queries = P::exact || gradients.grad_q != nullptr;
  for_items(
      sweep_queries ? static_cast<int64_t>(queries.parts.size()) * heads_each : 0, 1,
      [&](Arena& arena) { return BackwardDq<T, P>(problem, gradients, terms, queries.most_strips, arena); },
      [&](BackwardDq<T, P>& dq, int64_t item) {
        const QueryGroup& group = queries.groups.data()[queries.parts.data()[item / heads_each].group];
        const int64_t copy = item % heads_each;
        dq.run(queries.strips.data(), group, sample_of_copy(group.sample, copy), copy % kv_heads);
      });

  // finish(dkv, group, b, kv_head) once the sums of a group are made
  const auto sweep_keys = [&](const std::vector<KvGroup>& groups, auto finish) {
    for_items(
        static_cast<int64_t>(groups.size()) * heads_each, 1,
        [&](Arena& arena) { return BackwardDkv<T, P>(problem, gradients, terms, keys.most_blocks, keys.most_strips, arena); },
        [&](BackwardDkv<T, P>& dkv, int64_t item) {
          const KvGroup& group = groups.data()[item / heads_each];
          const int64_t copy = item % heads_each, b = sample_of_copy(group.sample, copy), kv_head = copy % kv_heads;
          dkv.run(group, b, kv_head);
          finish(dkv, group, b, kv_head);
        });
  };
  if (want_global) {
    sweep_keys(keys.global, [&](const BackwardDkv<T, P>& dkv, const KvGroup& group, int64_t b, int64_t kv_head) {
      dkv.for_keys(group, [&](int64_t kv_block, int64_t g, const float* key_sum, const float* value_sum) {
        float* to = sums.at(b, kv_head, keys.row_of.data()[kv_block] + g - problem.layout.kv_blocks[kv_block].key_begin);
        std::copy_n(value_sum, width, std::copy_n(key_sum, width, to));
      });
    });
  }
  if (want_global && own_global) {
    const KeyGradients<T> grads = {static_cast<T*>(gradients.grad_global_k), static_cast<T*>(gradients.grad_global_v),
                                   problem.global_keys, kv_heads, problem.channels};
    for_items(problem.batch * problem.global_keys, 64, rows_of_floats, [&](float* rows, int64_t item) {
      const int64_t b = item / problem.global_keys, g = item % problem.global_keys;
      for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
        std::fill_n(rows, 2 * width, 0.0f);
        add_global(problem, keys, sums, b, kv_head, g, rows, rows + width);
        grads.write(b, g, kv_head, scale, rows, rows + width);
      }
    });
  }
  if (want_keys) {
    const KeyGradients<T> grads = {static_cast<T*>(gradients.grad_k), static_cast<T*>(gradients.grad_v), problem.keys, kv_heads,
                                   problem.channels};
    sweep_keys(keys.keys, [&](const BackwardDkv<T, P>& dkv, const KvGroup& group, int64_t b, int64_t kv_head) {
      const int64_t table = problem.layout.index_samples == 1 ? 0 : b;
      const int32_t* place = own_global ? nullptr : keys.place.data() + table * problem.keys;
      dkv.for_keys(group, [&](int64_t, int64_t key, float* key_sum, float* value_sum) {
        if (place != nullptr && place[key] >= 0) add_global(problem, keys, sums, b, kv_head, place[key], key_sum, value_sum);
        grads.write(b, key, kv_head, scale, key_sum, value_sum);
      });
    });
    // Keys of a cache that the layout does not expect.
    for_items(problem.batch * problem.keys, 1024, rows_of_floats, [&](float*, int64_t item) {
      const int64_t b = item / problem.keys, key = item % problem.keys;
      if (key < keys.covered.data()[problem.layout.samples == 1 ? 0 : b]) return;
      for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) grads.write(b, key, kv_head, scale, nullptr, nullptr);
    });
  }
}

}  // namespace
}  // namespace longreel
