#include <tuple>

#include "bindings/tensor_args.h"

namespace longreel {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& query, const Tensor& patches, std::optional<Tensor> query_mask,
                                                   double scale, int64_t prefix, int64_t pitch, int64_t height, int64_t width,
                                                   int64_t out_height, int64_t out_width) {
  STD_TORCH_CHECK(patches.dim() == 3, "patches must be [F, N, C], got ", patches.dim(), " dimensions");
  const PoolWindow pool = pool_window(patches.size(1), prefix, pitch, height, width, out_height, out_width);
  const FrameProblem problem = frame_problem(query, patches, query_mask, nullptr, scale, pool);
  const int64_t prompts = problem.queries.prompts, frames = problem.patches.frames, channels = problem.patches.channels;
  Tensor context = empty(patches, {prompts, frames, channels});
  Tensor content = empty(patches, {frames, pool.cells(), channels});
  Tensor weights = empty(patches, {prompts, frames, problem.patches.tokens - prefix}, ScalarType::Float);
  Tensor lse = empty(patches, {prompts, frames, problem.queries.rows}, ScalarType::Float);
  compress_frames_cpu(problem,
                      {context.mutable_data_ptr(), content.mutable_data_ptr(), static_cast<float*>(weights.mutable_data_ptr()),
                       static_cast<float*>(lse.mutable_data_ptr())},
                      torch_threads());
  return {context, content, weights, lse};
}

std::tuple<Tensor, Tensor> backward(std::optional<Tensor> grad_context, std::optional<Tensor> grad_content,
                                    std::optional<Tensor> grad_weights, const Tensor& query, const Tensor& patches,
                                    std::optional<Tensor> query_mask, const Tensor& lse, double scale, int64_t prefix,
                                    int64_t pitch, int64_t height, int64_t width, int64_t out_height, int64_t out_width,
                                    int64_t need_query, int64_t need_patches) {
  STD_TORCH_CHECK(patches.dim() == 3, "patches must be [F, N, C], got ", patches.dim(), " dimensions");
  const PoolWindow pool = pool_window(patches.size(1), prefix, pitch, height, width, out_height, out_width);
  const FrameProblem problem = frame_problem(query, patches, query_mask, nullptr, scale, pool);
  const int64_t prompts = problem.queries.prompts, frames = problem.patches.frames, channels = problem.patches.channels;
  const int64_t tokens = problem.patches.tokens;
  const auto context = contiguous_like(grad_context, "grad_context", {prompts, frames, channels}, patches.scalar_type());
  const auto content = contiguous_like(grad_content, "grad_content", {frames, pool.cells(), channels}, patches.scalar_type());
  const auto weights = contiguous_like(grad_weights, "grad_weights", {prompts, frames, tokens - prefix}, ScalarType::Float);
  const auto log_sums = contiguous_like(lse, "lse", {prompts, frames, problem.queries.rows}, ScalarType::Float);
  Tensor grad_query = empty_gradient(query, need_query);
  Tensor grad_patches = empty_gradient(patches, need_patches);
  compress_frames_backward_cpu(
      problem,
      {data_or_null(context), data_or_null(content), static_cast<const float*>(data_or_null(weights)),
       static_cast<const float*>(log_sums->const_data_ptr()), need_query ? grad_query.mutable_data_ptr() : nullptr,
       need_patches ? grad_patches.mutable_data_ptr() : nullptr},
      torch_threads());
  return {grad_query, grad_patches};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) {
  m.impl("compress_frames.cpu", TORCH_BOX(&forward));
  m.impl("compress_frames_backward.cpu", TORCH_BOX(&backward));
}

}  // namespace longreel
