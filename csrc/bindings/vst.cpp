#include "vst/rotate.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "bindings/attention_args.h"
#include "vst/memory_layout.h"

namespace longreel {
namespace {

void check_channels(int64_t channels) {
  STD_TORCH_CHECK(channels >= 2 && channels <= 256 && channels % 2 == 0, "the head size must be even, 2 to 256, got ",
                  channels);
}

// cos and sin, fp32 on the CPU, contiguous; what keeps the table alive.
struct Table {
  Tensor cos, sin;

  Table(const Tensor& cos_of, const Tensor& sin_of, int64_t dims, int64_t channels)
      : cos(checked(cos_of, "cos", dims, channels)), sin(checked(sin_of, "sin", dims, channels)) {
    for (int64_t i = 0; i < dims; ++i) STD_TORCH_CHECK(cos.size(i) == sin.size(i), "cos and sin must have one shape");
  }

  RotaryTable view(int64_t stride) const {
    return {static_cast<const float*>(cos.const_data_ptr()), static_cast<const float*>(sin.const_data_ptr()), stride};
  }

 private:
  static Tensor checked(const Tensor& tensor, const char* name, int64_t dims, int64_t channels) {
    STD_TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Float, name, " must be float32 on the CPU");
    STD_TORCH_CHECK(tensor.dim() == dims && tensor.size(dims - 1) == channels / 2, name, " must have ", dims,
                    " dimensions, the last of ", channels / 2);
    return dense(tensor);
  }
};

// The place of every row: its token's number, which no other row has.
std::vector<int32_t> places(const Tensor& bounds, int64_t rows) {
  const int64_t samples = bounds.size(0);
  STD_TORCH_CHECK(bounds.size(1) == rows, "bounds must have ", rows, " rows, got ", bounds.size(1));
  std::vector<int32_t> place(samples * rows);
  std::vector<bool> taken;
  for (int64_t s = 0; s < samples; ++s) {
    taken.assign(rows, false);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t own = int64_t{ints(bounds)[(s * rows + row) * 4 + 1]} - 1;
      STD_TORCH_CHECK(0 <= own && own < rows && !taken[own], "row ", row, " is token ", own, " of ", rows,
                      ": every token is one row");
      taken[own] = true;
      place[s * rows + row] = static_cast<int32_t>(own);
    }
  }
  return place;
}

// Every tensor may be absent; the others give dtype and device.
RotateOutputs run_rotation(const Tensor& like, const Tensor* q, const Tensor* k, const Tensor* v, const Tensor& bounds,
                           const Tensor& cos, const Tensor& sin, bool inverse, int64_t heads, int64_t kv_heads,
                           const RotateOutputs& outputs) {
  const int64_t batch = like.size(0), rows = like.size(1), channels = like.size(3);
  check_channels(channels);
  const Tensor own = table(bounds, "bounds", 3, 4);
  check_samples(own.size(0), batch, "bounds");
  const Table angles(cos, sin, 3, channels);
  check_samples(angles.cos.size(0), batch, "cos");
  STD_TORCH_CHECK(angles.cos.size(1) == rows, "cos must have ", rows, " rows, got ", angles.cos.size(1));
  const std::vector<int32_t> place = places(own, rows);
  RotateProblem problem = {};
  problem.dtype = dtype_of(like, "q");
  problem.batch = batch;
  problem.rows = rows;
  problem.heads = heads;
  problem.kv_heads = kv_heads;
  problem.channels = channels;
  const auto view = [&](const Tensor* tensor, const char* name, int64_t count) {
    if (tensor == nullptr) return Heads{};
    check_heads(*tensor, name, like, rows, count);
    return heads_view(*tensor);
  };
  problem.q = view(q, "q", heads);
  problem.k = view(k, "k", kv_heads);
  problem.v = view(v, "v", kv_heads);
  problem.table = angles.view(angles.cos.size(0) == 1 ? 0 : rows * channels / 2);
  problem.place = place.data();
  problem.samples = own.size(0);
  problem.inverse = inverse;
  vst_rotate_cpu(problem, outputs, torch_threads());
  return outputs;
}

std::tuple<Tensor, Tensor, Tensor> rotate(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos,
                                          const Tensor& sin, const Tensor& bounds) {
  STD_TORCH_CHECK(q.dim() == 4 && k.dim() == 4, "q and k must have 4 dimensions, got ", q.dim(), " and ", k.dim());
  const int64_t batch = q.size(0), rows = q.size(1), heads = q.size(2), kv_heads = k.size(2), channels = q.size(3);
  Tensor new_q = empty(q, {batch, rows, heads, channels});
  Tensor new_k = empty(q, {batch, rows, kv_heads, channels}), new_v = empty(q, {batch, rows, kv_heads, channels});
  run_rotation(q, &q, &k, &v, bounds, cos, sin, false, heads, kv_heads,
               {new_q.mutable_data_ptr(), new_k.mutable_data_ptr(), new_v.mutable_data_ptr()});
  return {new_q, new_k, new_v};
}

// Zeros where no gradient came in.
std::tuple<Tensor, Tensor, Tensor> rotate_backward(std::optional<Tensor> grad_q, std::optional<Tensor> grad_k,
                                                   std::optional<Tensor> grad_v, const Tensor& cos, const Tensor& sin,
                                                   const Tensor& bounds, int64_t heads, int64_t kv_heads, int64_t need_q,
                                                   int64_t need_k, int64_t need_v) {
  STD_TORCH_CHECK(grad_q.has_value() || grad_k.has_value() || grad_v.has_value(), "no gradient came in");
  const Tensor& like = grad_q.has_value() ? *grad_q : grad_k.has_value() ? *grad_k : *grad_v;
  STD_TORCH_CHECK(like.dim() == 4, "gradients must have 4 dimensions, got ", like.dim());
  const auto made = [&](const std::optional<Tensor>& grad, int64_t count, int64_t needed) {
    Tensor result = needed ? empty(like, {like.size(0), like.size(1), count, like.size(3)}) : empty(like, {0});
    if (needed && !grad.has_value()) torch::stable::zero_(result);
    return result;
  };
  const auto wanted = [](const std::optional<Tensor>& grad, int64_t needed) {
    return needed && grad.has_value() ? &*grad : nullptr;
  };
  Tensor q = made(grad_q, heads, need_q), k = made(grad_k, kv_heads, need_k), v = made(grad_v, kv_heads, need_v);
  run_rotation(like, wanted(grad_q, need_q), wanted(grad_k, need_k), wanted(grad_v, need_v), bounds, cos, sin, true, heads,
               kv_heads, {q.mutable_data_ptr(), k.mutable_data_ptr(), v.mutable_data_ptr()});
  return {q, k, v};
}

// A memory [B, Hkv, capacity, D] as [B, capacity, Hkv, D].
Heads memory_view(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(2), tensor.stride(1), tensor.stride(3)};
}

void check_memory(const Tensor& tensor, const char* name, const Tensor& rows, int64_t kv_heads, int64_t capacity) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU");
  STD_TORCH_CHECK(tensor.scalar_type() == rows.scalar_type(), name, " must have the dtype of the rows");
  const bool fits = tensor.dim() == 4 && tensor.size(0) == rows.size(0) && tensor.size(1) == kv_heads &&
                    tensor.size(2) == capacity && tensor.size(3) == rows.size(3);
  STD_TORCH_CHECK(fits, name, " must be [", rows.size(0), ", ", kv_heads, ", ", capacity, ", ", rows.size(3), "]");
}

// Numbers int32 [B]; each, and what comes behind, lies within the capacity.
Tensor checked_lengths(const Tensor& lengths, const char* name, int64_t batch, int64_t behind, int64_t capacity) {
  const Tensor own = table(lengths, name, 1, 0);
  STD_TORCH_CHECK(own.size(0) == batch, name, " must have ", batch, " entries, got ", own.size(0));
  for (int64_t b = 0; b < batch; ++b) {
    STD_TORCH_CHECK(ints(own)[b] >= 0 && ints(own)[b] + behind <= capacity, name, " is ", ints(own)[b], ", with ", behind,
                    " behind it: there is room for ", capacity);
  }
  return own;
}

void append(Tensor mem_k, Tensor mem_v, const Tensor& mem_len, const Tensor& k, const Tensor& v, const Tensor& cos,
            const Tensor& sin) {
  STD_TORCH_CHECK(k.dim() == 4 && mem_k.dim() == 4, "k and mem_k must have 4 dimensions, got ", k.dim(), " and ", mem_k.dim());
  const int64_t batch = k.size(0), rows = k.size(1), kv_heads = k.size(2), channels = k.size(3), capacity = mem_k.size(2);
  check_channels(channels);
  check_heads(k, "k", k, rows, kv_heads);
  check_heads(v, "v", k, rows, kv_heads);
  check_memory(mem_k, "mem_k", k, kv_heads, capacity);
  check_memory(mem_v, "mem_v", k, kv_heads, capacity);
  const Table angles(cos, sin, 2, channels);
  const Tensor length = checked_lengths(mem_len, "mem_len", batch, rows, capacity);
  for (int64_t b = 0; b < batch; ++b) {
    STD_TORCH_CHECK(ints(length)[b] + rows <= angles.cos.size(0), "cos and sin have ", angles.cos.size(0),
                    " positions; mem_len is ", ints(length)[b], ", with ", rows, " behind it: ", ints(length)[b] + rows,
                    " are needed");
  }
  AppendProblem problem = {};
  problem.dtype = dtype_of(k, "k");
  problem.batch = batch;
  problem.rows = rows;
  problem.kv_heads = kv_heads;
  problem.channels = channels;
  problem.k = heads_view(k);
  problem.v = heads_view(v);
  problem.memory_k = memory_view(mem_k);
  problem.memory_v = memory_view(mem_v);
  problem.memory_k.data = mem_k.mutable_data_ptr();
  problem.memory_v.data = mem_v.mutable_data_ptr();
  problem.length = ints(length);
  problem.table = angles.view(0);
  vst_append_cpu(problem, torch_threads());
}

std::tuple<Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mem_k,
                                     const Tensor& mem_v, const Tensor& mem_len, std::optional<Tensor> mem_start,
                                     std::optional<Tensor> k_before, const Tensor& bounds, const Tensor& tiles,
                                     const Tensor& order, int64_t /*tile_rows*/, int64_t /*tile_keys*/, double scale) {
  STD_TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && mem_k.dim() == 4, "q, k and mem_k must have 4 dimensions");
  AttentionProblem problem = {};
  problem.dtype = dtype_of(q, "q");
  problem.batch = q.size(0);
  problem.queries = q.size(1);
  problem.heads = q.size(2);
  problem.channels = q.size(3);
  problem.keys = k.size(1);
  problem.kv_heads = k.size(2);
  problem.global_keys = mem_k.size(2);
  problem.scale = static_cast<float>(scale);
  STD_TORCH_CHECK(problem.kv_heads > 0 && problem.heads % problem.kv_heads == 0, "q has ", problem.heads, " heads and k has ",
                  problem.kv_heads, ": H must be a multiple of Hkv");
  STD_TORCH_CHECK(problem.channels >= 1 && problem.channels <= 256, "the head size must be 1 to 256, got ", problem.channels);
  check_heads(q, "q", q, problem.queries, problem.heads);
  check_heads(k, "k", q, problem.keys, problem.kv_heads);
  check_heads(v, "v", q, problem.keys, problem.kv_heads);
  check_memory(mem_k, "mem_k", q, problem.kv_heads, problem.global_keys);
  check_memory(mem_v, "mem_v", q, problem.kv_heads, problem.global_keys);
  problem.q = heads_view(q);
  problem.k = heads_view(k);
  problem.v = heads_view(v);
  problem.global_k = memory_view(mem_k);
  problem.global_v = memory_view(mem_v);
  // An empty tensor may have no memory: what counts is that it was given.
  if (problem.global_k.data == nullptr) problem.global_k.data = problem.global_v.data = &problem;

  const Tensor own_bounds = table(bounds, "bounds", 3, 4), own_tiles = table(tiles, "tiles", 2, 12);
  const Tensor own_order = table(order, "order", 1, 0);
  AttentionLayout plan = {};
  plan.bounds = ints(own_bounds);
  plan.samples = own_bounds.size(0);
  check_samples(plan.samples, problem.batch, "bounds");
  plan.tiles = static_cast<const layout::Tile*>(own_tiles.const_data_ptr());
  plan.tile_count = own_tiles.size(0);
  plan.order = ints(own_order);
  check_order(own_order, plan.tile_count, "order");
  check_tiles(plan, own_bounds, problem.queries, problem.keys, problem.global_keys);
  int64_t rows_behind = 0, global_behind = 0;
  for (int64_t t = 0; t < plan.tile_count; ++t) {
    const layout::Tile& tile = plan.tiles[t];
    STD_TORCH_CHECK(tile.global.begin == 0 && (!k_before.has_value() || tile.keys.begin == 0),
                    "rows attend to what stands before them from the first key on");
    rows_behind = std::max<int64_t>(rows_behind, tile.keys.end);
    global_behind = std::max<int64_t>(global_behind, tile.global.end);
  }
  for (int64_t row = 0; row < plan.samples * problem.queries; ++row) {
    const int32_t* own = plan.bounds + row * 4;
    STD_TORCH_CHECK(own[2] == 0 && 0 <= own[3] && own[3] <= global_behind && (!k_before.has_value() || own[0] == 0), "row ",
                    row, " attends to keys from ", own[0], " and global keys ", own[2], " .. ", own[3],
                    ": they must begin with the first, and be those of its tile");
  }
  const auto numbers = [&](const std::optional<Tensor>& tensor, const char* name, int64_t behind, int64_t capacity) {
    return tensor.has_value() ? std::optional<Tensor>(checked_lengths(*tensor, name, problem.batch, behind, capacity))
                              : std::nullopt;
  };
  constexpr int64_t any = int64_t{1} << 31;
  const auto length = numbers(mem_len, "mem_len", global_behind, problem.global_keys);
  const auto start = numbers(mem_start, "mem_start", 0, any);
  const auto before = numbers(k_before, "k_before", rows_behind, problem.keys);
  const auto data = [](const std::optional<Tensor>& tensor) { return tensor.has_value() ? ints(*tensor) : nullptr; };
  const Memory memory = {data(length), data(start), data(before)};
  Tensor out = empty(q, {problem.batch, problem.queries, problem.heads, problem.channels});
  Tensor lse = empty(q, {problem.batch, problem.heads, problem.queries}, ScalarType::Float);
  if (problem.batch == 0) return {out, lse};
  const MemoryLayout layout(plan, problem.queries, problem.batch, memory);
  problem.layout = layout.layout();
  block_sparse_attention_cpu(problem, {out.mutable_data_ptr(), static_cast<float*>(lse.mutable_data_ptr())}, torch_threads());
  return {out, lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) {
  m.impl("vst_rotate.cpu", TORCH_BOX(&rotate));
  m.impl("vst_rotate_backward.cpu", TORCH_BOX(&rotate_backward));
  m.impl("vst_append_.cpu", TORCH_BOX(&append));
  m.impl("vst_attention.cpu", TORCH_BOX(&attention));
}

}  // namespace longreel
