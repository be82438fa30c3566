#include "qformer_attention/qformer_attention.h"

#include <algorithm>
#include <tuple>

#include "bindings/tensor_args.h"

namespace longreel {
namespace {

using Optional = const std::optional<Tensor>&;

// The tensors that are read as a whole, contiguous, and the problem that points into them.
struct Arguments {
  std::optional<Tensor> query, w_k, w_v, b_v, table;
  QFormerProblem problem = {};

  Arguments(const Tensor& given, const Tensor& x, const Tensor& given_k, const Tensor& given_v, Optional given_b, Optional mask,
            Optional given_table, int64_t frame_size, int64_t heads, double scale) {
    STD_TORCH_CHECK(x.is_cpu() && x.dim() == 3, "x must be [B, S, C] on the CPU");
    STD_TORCH_CHECK(given.dim() == 3 && heads > 0 && given.size(2) % heads == 0 && given.size(2) > 0,
                    "query must be [B, Nq, H*D] with ", heads, " heads");
    const int64_t batch = x.size(0), keys = x.size(1), channels = x.size(2), width = given.size(2);
    STD_TORCH_CHECK(given.size(0) == batch || given.size(0) == 1, "query must have 1 sample or ", batch);
    STD_TORCH_CHECK(channels > 0, "x must have at least one channel");
    const auto dtype = x.scalar_type();
    query = contiguous_like(given, "query", {given.size(0), given.size(1), width}, dtype);
    w_k = contiguous_like(given_k, "w_k", {width, channels}, dtype);
    w_v = contiguous_like(given_v, "w_v", {width, channels}, dtype);
    b_v = contiguous_like(given_b, "b_v", {width}, dtype);
    problem.dtype = dtype_of(x, "x");
    problem.batch = batch, problem.queries = given.size(1), problem.keys = keys, problem.channels = channels;
    problem.heads = heads, problem.depth = width / heads, problem.scale = static_cast<float>(scale);
    problem.x = x.const_data_ptr();
    problem.x_batch = x.stride(0), problem.x_key = x.stride(1), problem.x_channel = x.stride(2);
    if (mask.has_value()) {
      STD_TORCH_CHECK(mask->is_cpu() && mask->scalar_type() == ScalarType::Bool && mask->dim() == 2 && mask->size(0) == batch &&
                          mask->size(1) == keys,
                      "key_mask must be bool [", batch, ", ", keys, "] on the CPU");
      problem.mask = static_cast<const bool*>(mask->const_data_ptr());
      problem.mask_batch = mask->stride(0), problem.mask_key = mask->stride(1);
    }
    problem.frame_size = 1;
    if (given_table.has_value()) {
      STD_TORCH_CHECK(frame_size > 0 && frame_size <= std::max<int64_t>(1, keys) && given_table->dim() == 2 &&
                          given_table->size(0) * frame_size == keys,
                      "frame_table must have keys / frame_size rows");
      table = contiguous_like(given_table, "frame_table", {given_table->size(0), channels}, dtype);
      problem.frame_size = frame_size;
    }
    problem.query = query->const_data_ptr(), problem.shared = given.size(0) == 1 && batch != 1;
    problem.w_k = w_k->const_data_ptr(), problem.w_v = w_v->const_data_ptr();
    problem.b_v = data_or_null(b_v), problem.table = data_or_null(table);
  }
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  std::vector<int64_t> out_shape() const { return {problem.batch, problem.queries, problem.width()}; }
  std::vector<int64_t> lse_shape() const { return {problem.batch, problem.heads, problem.queries}; }
};

std::tuple<Tensor, Tensor> forward(const Tensor& query, const Tensor& x, const Tensor& w_k, const Tensor& w_v,
                                   std::optional<Tensor> b_v, std::optional<Tensor> key_mask, std::optional<Tensor> frame_table,
                                   int64_t frame_size, int64_t num_heads, double scale) {
  const Arguments args(query, x, w_k, w_v, b_v, key_mask, frame_table, frame_size, num_heads, scale);
  Tensor out = empty(x, args.out_shape(), ScalarType::Float), lse = empty(x, args.lse_shape(), ScalarType::Float);
  qformer_attention_cpu(args.problem,
                        {static_cast<float*>(out.mutable_data_ptr()), static_cast<float*>(lse.mutable_data_ptr())},
                        torch_threads());
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    std::optional<Tensor> grad_out, const Tensor& query, const Tensor& x, const Tensor& w_k, const Tensor& w_v,
    std::optional<Tensor> b_v, std::optional<Tensor> key_mask, std::optional<Tensor> frame_table, int64_t frame_size,
    int64_t num_heads, double scale, const Tensor& out, const Tensor& lse, int64_t need_query, int64_t need_x, int64_t need_w_k,
    int64_t need_w_v, int64_t need_b_v, int64_t need_frame_table) {
  const Arguments args(query, x, w_k, w_v, b_v, key_mask, frame_table, frame_size, num_heads, scale);
  STD_TORCH_CHECK(grad_out.has_value(), "grad_out is missing");
  const auto upstream = contiguous_like(grad_out, "grad_out", args.out_shape(), ScalarType::Float);
  const auto result = contiguous_like(out, "out", args.out_shape(), ScalarType::Float);
  const auto log_sums = contiguous_like(lse, "lse", args.lse_shape(), ScalarType::Float);
  const auto gradient = [&](const std::optional<Tensor>& like, int64_t need) {
    return empty_gradient(like.has_value() ? *like : x, like.has_value() ? need : 0);
  };
  Tensor grads[] = {gradient(query, need_query), gradient(x, need_x),     gradient(w_k, need_w_k),
                    gradient(w_v, need_w_v),     gradient(b_v, need_b_v), gradient(frame_table, need_frame_table)};
  const auto pointer = [&](int i, int64_t need, bool there = true) {
    return need != 0 && there ? grads[i].mutable_data_ptr() : nullptr;
  };
  const QFormerGradients gradients = {static_cast<const float*>(upstream->const_data_ptr()),
                                      static_cast<const float*>(result->const_data_ptr()),
                                      static_cast<const float*>(log_sums->const_data_ptr()),
                                      pointer(0, need_query),
                                      pointer(1, need_x),
                                      pointer(2, need_w_k),
                                      pointer(3, need_w_v),
                                      pointer(4, need_b_v, b_v.has_value()),
                                      pointer(5, need_frame_table, frame_table.has_value())};
  qformer_attention_backward_cpu(args.problem, gradients, torch_threads());
  return {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) {
  m.impl("qformer_attention.cpu", TORCH_BOX(&forward));
  m.impl("qformer_attention_backward.cpu", TORCH_BOX(&backward));
}

}  // namespace longreel
