#include "context_attention/context_attention.h"

#include <tuple>

#include "bindings/tensor_args.h"

namespace longreel {
namespace {

struct Arguments {
  std::vector<int64_t> offsets;
  FrameProblem problem;
  std::vector<int64_t> context_shape, weights_shape, lse_shape;

  Arguments(const Tensor& query, const Tensor& patches, const std::optional<Tensor>& query_mask,
            const std::optional<Tensor>& cu_seqlens, double scale) {
    const bool packed = cu_seqlens.has_value();
    if (packed) {
      STD_TORCH_CHECK(patches.dim() == 2, "patches must be [total, C] with cu_seqlens, got ", patches.dim(), " dimensions");
      offsets = frame_offsets(*cu_seqlens, patches.size(0));
    }
    problem = frame_problem(query, patches, query_mask, packed ? &offsets : nullptr, scale, PoolWindow{});
    const int64_t prompts = problem.queries.prompts, frames = problem.patches.frames;
    context_shape = {prompts, frames, problem.patches.channels};
    weights_shape = packed ? std::vector<int64_t>{prompts, problem.patches.tokens}
                           : std::vector<int64_t>{prompts, frames, problem.patches.tokens};
    lse_shape = {prompts, frames, problem.queries.rows};
  }
  // The problem points into `offsets`.
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;
};

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& query, const Tensor& patches, std::optional<Tensor> query_mask,
                                           std::optional<Tensor> cu_seqlens, double scale) {
  const Arguments args(query, patches, query_mask, cu_seqlens, scale);
  Tensor context = empty(patches, args.context_shape);
  Tensor weights = empty(patches, args.weights_shape, ScalarType::Float);
  Tensor lse = empty(patches, args.lse_shape, ScalarType::Float);
  context_attention_cpu(args.problem, context.mutable_data_ptr(), static_cast<float*>(weights.mutable_data_ptr()),
                        static_cast<float*>(lse.mutable_data_ptr()), torch_threads());
  return {context, weights, lse};
}

std::tuple<Tensor, Tensor> backward(std::optional<Tensor> grad_context, std::optional<Tensor> grad_weights, const Tensor& query,
                                    const Tensor& patches, std::optional<Tensor> query_mask, std::optional<Tensor> cu_seqlens,
                                    const Tensor& lse, double scale, int64_t need_query, int64_t need_patches) {
  const Arguments args(query, patches, query_mask, cu_seqlens, scale);
  const auto context = contiguous_like(grad_context, "grad_context", args.context_shape, patches.scalar_type());
  const auto weights = contiguous_like(grad_weights, "grad_weights", args.weights_shape, ScalarType::Float);
  const auto log_sums = contiguous_like(lse, "lse", args.lse_shape, ScalarType::Float);
  Tensor grad_query = empty_gradient(query, need_query);
  Tensor grad_patches = empty_gradient(patches, need_patches);
  context_attention_backward_cpu(args.problem, data_or_null(context), static_cast<const float*>(data_or_null(weights)),
                                 static_cast<const float*>(log_sums->const_data_ptr()),
                                 need_query ? grad_query.mutable_data_ptr() : nullptr,
                                 need_patches ? grad_patches.mutable_data_ptr() : nullptr, torch_threads());
  return {grad_query, grad_patches};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) {
  m.impl("context_attention.cpu", TORCH_BOX(&forward));
  m.impl("context_attention_backward.cpu", TORCH_BOX(&backward));
}

}  // namespace longreel
