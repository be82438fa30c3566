// longreel::context_attention.cuda and its backward: the pass over frames of compress_frames, without cells.
#include "bindings/cuda_frames.h"

namespace longreel {
namespace {

template <auto run>
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& query, const Tensor& patches, std::optional<Tensor> query_mask,
                                           std::optional<Tensor> cu_seqlens, double scale) {
  const FrameArguments args(query, patches, query_mask, cu_seqlens, scale, PoolWindow{});
  const OnDeviceOf device(patches);
  return run(args, patches, nullptr, device);
}

std::tuple<Tensor, Tensor> backward(std::optional<Tensor> grad_context, std::optional<Tensor> grad_weights, const Tensor& query,
                                    const Tensor& patches, std::optional<Tensor> query_mask, std::optional<Tensor> cu_seqlens,
                                    const Tensor& lse, double scale, int64_t need_query, int64_t need_patches) {
  const FrameArguments args(query, patches, query_mask, cu_seqlens, scale, PoolWindow{});
  const OnDeviceOf device(patches);
  const auto context = contiguous_beside(patches, grad_context, "grad_context", args.context_shape, patches.scalar_type());
  const auto weights = contiguous_beside(patches, grad_weights, "grad_weights", args.weights_shape, ScalarType::Float);
  const auto log_sums = contiguous_beside(patches, lse, "lse", args.lse_shape, ScalarType::Float);
  return run_backward(args, query, patches,
                      {data_or_null(context), nullptr, static_cast<const float*>(data_or_null(weights)),
                       static_cast<const float*>(data_or_null(log_sums)), nullptr, nullptr},
                      need_query != 0, need_patches != 0, device);
}

}  // namespace
}  // namespace longreel

STABLE_TORCH_LIBRARY_IMPL(longreel, CUDA, m) {
  m.impl("context_attention.cuda", TORCH_BOX(&longreel::forward<longreel::run_blocks>));
  m.impl("context_attention_backward.cuda", TORCH_BOX(&longreel::backward));
  m.impl("context_attention.cluster", TORCH_BOX(&longreel::forward<longreel::run_cluster>));
  m.impl("context_attention_backward.cluster", TORCH_BOX(&longreel::backward));
}
