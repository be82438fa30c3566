#include "block_sparse_attention/block_sparse_attention.h"

#include <string>
#include <tuple>

#include "bindings/attention_args.h"

namespace longreel {
namespace {

// The problem of a call, with what keeps its tables alive. All that the kernels address by the tables lies within the tensors.
struct Arguments {
  Tensor global_index, start, bounds, tiles, order, kv_blocks, query_ranges, kv_order;
  AttentionProblem problem;

  Arguments(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& global_k,
            const std::optional<Tensor>& global_v, const Tensor& global_index, const Tensor& start, const Tensor& bounds,
            const Tensor& tiles, const Tensor& order, const Tensor& kv_blocks, const Tensor& query_ranges,
            const Tensor& kv_order, double scale)
      : global_index(table(global_index, "global_index", 2, 0)),
        start(table(start, "start", 1, 0)),
        bounds(table(bounds, "bounds", 3, 0)),
        tiles(table(tiles, "tiles", 2, 12)),
        order(table(order, "order", 1, 0)),
        kv_blocks(table(kv_blocks, "kv_blocks", 2, 6)),
        query_ranges(table(query_ranges, "query_ranges", 2, 4)),
        kv_order(table(kv_order, "kv_order", 1, 0)),
        problem{} {
    STD_TORCH_CHECK(q.dim() == 4 && k.dim() == 4, "q and k must have 4 dimensions, got ", q.dim(), " and ", k.dim());
    problem.dtype = dtype_of(q, "q");
    problem.batch = q.size(0);
    problem.queries = q.size(1);
    problem.heads = q.size(2);
    problem.channels = q.size(3);
    problem.keys = k.size(1);
    problem.kv_heads = k.size(2);
    problem.global_keys = global_index.size(1);
    problem.scale = static_cast<float>(scale);
    STD_TORCH_CHECK(problem.kv_heads > 0 && problem.heads % problem.kv_heads == 0, "q has ", problem.heads, " heads and k has ",
                    problem.kv_heads, ": H must be a multiple of Hkv");
    STD_TORCH_CHECK(problem.channels >= 1 && problem.channels <= kMostHeadSize, "the head size must be 1 to ", kMostHeadSize,
                    ", got ", problem.channels);
    STD_TORCH_CHECK(global_k.has_value() == global_v.has_value(), "global_k and global_v are given together or not at all");
    check_heads(q, "q", q, problem.queries, problem.heads);
    check_heads(k, "k", q, problem.keys, problem.kv_heads);
    check_heads(v, "v", q, problem.keys, problem.kv_heads);
    problem.q = heads_view(q);
    problem.k = heads_view(k);
    problem.v = heads_view(v);
    if (global_k.has_value()) {
      check_heads(*global_k, "global_k", q, problem.global_keys, problem.kv_heads);
      check_heads(*global_v, "global_v", q, problem.global_keys, problem.kv_heads);
      problem.global_k = heads_view(*global_k);
      problem.global_v = heads_view(*global_v);
      // An empty tensor may have no memory: what counts is that it was given.
      if (problem.global_k.data == nullptr) problem.global_k.data = problem.global_v.data = this;
    }
    set_layout();
    check_index();
    check_tiles(problem.layout, bounds, problem.queries, problem.keys, problem.global_keys);
    check_kv_blocks();
  }
  // The problem points into the tables.
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

 private:
  void set_layout() {
    AttentionLayout& layout = problem.layout;
    layout.global_index = ints(global_index);
    layout.start = ints(start);
    layout.bounds = ints(bounds);
    layout.bounds_columns = bounds.size(2);
    STD_TORCH_CHECK(bounds.size(2) == 4 || (bounds.size(2) == 2 && problem.global_keys == 0),
                    "bounds must have 4 columns, or 2 without global keys, got ", bounds.size(2));
    layout.index_samples = global_index.size(0);
    layout.start_samples = start.size(0);
    layout.samples = bounds.size(0);
    check_samples(layout.index_samples, problem.batch, "global_index");
    check_samples(layout.start_samples, problem.batch, "start");
    check_samples(layout.samples, problem.batch, "bounds");
    STD_TORCH_CHECK(bounds.size(1) == problem.queries, "bounds must have ", problem.queries, " rows, got ", bounds.size(1));
    layout.tile_count = tiles.size(0);
    layout.kv_block_count = kv_blocks.size(0);
    static_assert(sizeof(layout::Tile) == 12 * sizeof(int32_t) && sizeof(layout::KvBlock) == 6 * sizeof(int32_t));
    static_assert(sizeof(layout::QueryRange) == 4 * sizeof(int32_t));
    layout.tiles = static_cast<const layout::Tile*>(tiles.const_data_ptr());
    layout.kv_blocks = static_cast<const layout::KvBlock*>(kv_blocks.const_data_ptr());
    layout.query_ranges = static_cast<const layout::QueryRange*>(query_ranges.const_data_ptr());
    layout.order = ints(order);
    layout.kv_order = ints(kv_order);
    check_order(order, layout.tile_count, "order");
    check_order(kv_order, layout.kv_block_count, "kv_order");
  }

  void check_index() const {
    for (int64_t b = 0; b < problem.layout.index_samples; ++b) {
      int64_t before = -1;
      for (int64_t g = 0; g < problem.global_keys; ++g) {
        const int64_t key = problem.layout.global_index[b * problem.global_keys + g];
        STD_TORCH_CHECK(key < problem.keys, "global_index names key ", key, " of ", problem.keys);
        STD_TORCH_CHECK(key < 0 || key > before, "global_index must rise within a sample, -1 behind its last; got ", key,
                        " after ", before);
        before = key < 0 ? problem.keys : key;
      }
    }
  }

  void check_kv_blocks() const {
    for (int64_t u = 0; u < problem.layout.kv_block_count; ++u) {
      const layout::KvBlock& kv_block = problem.layout.kv_blocks[u];
      STD_TORCH_CHECK(0 <= kv_block.sample && kv_block.sample < problem.layout.samples, "a KV block is of sample ",
                      kv_block.sample, " of ", problem.layout.samples);
      const int64_t keys = kv_block.is_global ? problem.global_keys : problem.keys;
      STD_TORCH_CHECK(0 <= kv_block.key_begin && kv_block.key_begin <= kv_block.key_end && kv_block.key_end <= keys,
                      "a KV block has keys ", kv_block.key_begin, " .. ", kv_block.key_end, " of ", keys);
      STD_TORCH_CHECK(0 <= kv_block.first_range && kv_block.first_range <= kv_block.last_range &&
                          kv_block.last_range <= query_ranges.size(0),
                      "a KV block has query ranges ", kv_block.first_range, " .. ", kv_block.last_range, " of ",
                      query_ranges.size(0));
    }
    for (int64_t r = 0; r < query_ranges.size(0); ++r)
      check_range(problem.layout.query_ranges[r], problem.queries, "a query range");
  }
};

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v, std::optional<Tensor> global_k,
                                   std::optional<Tensor> global_v, const Tensor& global_index, const Tensor& start,
                                   const Tensor& bounds, const Tensor& tiles, const Tensor& order, const Tensor& kv_blocks,
                                   const Tensor& query_ranges, const Tensor& kv_order, int64_t /*tile_rows*/,
                                   int64_t /*tile_keys*/, double scale) {
  const Arguments args(q, k, v, global_k, global_v, global_index, start, bounds, tiles, order, kv_blocks, query_ranges,
                       kv_order, scale);
  const AttentionProblem& problem = args.problem;
  Tensor out = empty(q, {problem.batch, problem.queries, problem.heads, problem.channels});
  Tensor lse = empty(q, {problem.batch, problem.heads, problem.queries}, ScalarType::Float);
  block_sparse_attention_cpu(problem, {out.mutable_data_ptr(), static_cast<float*>(lse.mutable_data_ptr())}, torch_threads());
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    std::optional<Tensor> grad_out, std::optional<Tensor> grad_lse, const Tensor& q, const Tensor& k, const Tensor& v,
    std::optional<Tensor> global_k, std::optional<Tensor> global_v, const Tensor& global_index, const Tensor& start,
    const Tensor& bounds, const Tensor& tiles, const Tensor& order, const Tensor& kv_blocks, const Tensor& query_ranges,
    const Tensor& kv_order, int64_t /*tile_rows*/, int64_t /*tile_keys*/, double scale, const Tensor& out, const Tensor& lse,
    int64_t need_q, int64_t need_kv, int64_t need_global) {
  const Arguments args(q, k, v, global_k, global_v, global_index, start, bounds, tiles, order, kv_blocks, query_ranges,
                       kv_order, scale);
  const AttentionProblem& problem = args.problem;
  const std::vector<int64_t> lse_shape = {problem.batch, problem.heads, problem.queries};
  const auto grad_lse_rows = contiguous_like(grad_lse, "grad_lse", lse_shape, ScalarType::Float);
  const auto lse_rows = contiguous_like(lse, "lse", lse_shape, ScalarType::Float);
  check_heads(out, "out", q, problem.queries, problem.heads);
  AttentionGradients gradients = {};
  if (grad_out.has_value()) {
    check_heads(*grad_out, "grad_out", q, problem.queries, problem.heads);
    gradients.grad_out = heads_view(*grad_out);
  }
  gradients.out = heads_view(out);
  gradients.grad_lse = static_cast<const float*>(data_or_null(grad_lse_rows));
  gradients.lse = static_cast<const float*>(lse_rows->const_data_ptr());
  const int64_t need_own = need_global && global_k.has_value();
  Tensor grad_q = empty_gradient(q, need_q), grad_k = empty_gradient(k, need_kv), grad_v = empty_gradient(v, need_kv);
  Tensor grad_global_k = empty_gradient(need_own ? *global_k : k, need_own);
  Tensor grad_global_v = empty_gradient(need_own ? *global_v : v, need_own);
  if (need_q) gradients.grad_q = grad_q.mutable_data_ptr();
  if (need_kv) {
    gradients.grad_k = grad_k.mutable_data_ptr();
    gradients.grad_v = grad_v.mutable_data_ptr();
  }
  if (need_own) {
    gradients.grad_global_k = grad_global_k.mutable_data_ptr();
    gradients.grad_global_v = grad_global_v.mutable_data_ptr();
  }
  block_sparse_attention_backward_cpu(problem, gradients, torch_threads());
  return {grad_q, grad_k, grad_v, grad_global_k, grad_global_v};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) {
  m.impl("block_sparse_attention.cpu", TORCH_BOX(&forward));
  m.impl("block_sparse_attention_backward.cpu", TORCH_BOX(&backward));
}

}  // namespace longreel
