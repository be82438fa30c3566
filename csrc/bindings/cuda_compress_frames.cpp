// longreel::compress_frames.cuda and its backward: tensors to pointers, on the current stream of their device.
#include "bindings/cuda_frames.h"

namespace longreel {
namespace {

PoolWindow window(const Tensor& patches, int64_t prefix, int64_t pitch, int64_t height, int64_t width, int64_t out_height,
                  int64_t out_width) {
  STD_TORCH_CHECK(patches.dim() == 3, "patches must be [F, N, C], got ", patches.dim(), " dimensions");
  return pool_window(patches.size(1), prefix, pitch, height, width, out_height, out_width);
}

template <auto run>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& query, const Tensor& patches, std::optional<Tensor> query_mask,
                                                   double scale, int64_t prefix, int64_t pitch, int64_t height, int64_t width,
                                                   int64_t out_height, int64_t out_width) {
  const PoolWindow pool = window(patches, prefix, pitch, height, width, out_height, out_width);
  const FrameArguments args(query, patches, query_mask, std::nullopt, scale, pool);
  const OnDeviceOf device(patches);
  Tensor content = allocate(patches, {args.problem.patches.frames, pool.cells(), args.problem.patches.channels});
  auto [context, weights, lse] = run(args, patches, content.mutable_data_ptr(), device);
  return {context, content, weights, lse};
}

std::tuple<Tensor, Tensor> backward(std::optional<Tensor> grad_context, std::optional<Tensor> grad_content,
                                    std::optional<Tensor> grad_weights, const Tensor& query, const Tensor& patches,
                                    std::optional<Tensor> query_mask, const Tensor& lse, double scale, int64_t prefix,
                                    int64_t pitch, int64_t height, int64_t width, int64_t out_height, int64_t out_width,
                                    int64_t need_query, int64_t need_patches) {
  const PoolWindow pool = window(patches, prefix, pitch, height, width, out_height, out_width);
  const FrameArguments args(query, patches, query_mask, std::nullopt, scale, pool);
  const OnDeviceOf device(patches);
  const std::vector<int64_t> content_shape = {args.problem.patches.frames, pool.cells(), args.problem.patches.channels};
  const auto context = contiguous_beside(patches, grad_context, "grad_context", args.context_shape, patches.scalar_type());
  const auto content = contiguous_beside(patches, grad_content, "grad_content", content_shape, patches.scalar_type());
  const auto weights = contiguous_beside(patches, grad_weights, "grad_weights", args.weights_shape, ScalarType::Float);
  const auto log_sums = contiguous_beside(patches, lse, "lse", args.lse_shape, ScalarType::Float);
  return run_backward(args, query, patches,
                      {data_or_null(context), data_or_null(content), static_cast<const float*>(data_or_null(weights)),
                       static_cast<const float*>(data_or_null(log_sums)), nullptr, nullptr},
                      need_query != 0, need_patches != 0, device);
}

}  // namespace
}  // namespace longreel

STABLE_TORCH_LIBRARY_IMPL(longreel, CUDA, m) {
  m.impl("compress_frames.cuda", TORCH_BOX(&longreel::forward<longreel::run_blocks>));
  m.impl("compress_frames_backward.cuda", TORCH_BOX(&longreel::backward));
  m.impl("compress_frames.cluster", TORCH_BOX(&longreel::forward<longreel::run_cluster>));
  m.impl("compress_frames_backward.cluster", TORCH_BOX(&longreel::backward));
}
