#include "adaptive_pool/adaptive_pool.h"

#include "bindings/tensor_args.h"

namespace longreel {
namespace {

Tensor forward(const Tensor& patches, int64_t prefix, int64_t pitch, int64_t height, int64_t width, int64_t out_height,
               int64_t out_width) {
  const Patches x = patches_view(patches, nullptr);
  const PoolWindow pool = pool_window(x.tokens, prefix, pitch, height, width, out_height, out_width);
  Tensor content = empty(patches, {x.frames, pool.cells(), x.channels});
  adaptive_pool_cpu({x.data, x.dtype, x.frames, x.tokens, x.channels, x.frame_stride, x.row_stride, x.channel_stride, pool},
                    content.mutable_data_ptr(), torch_threads());
  return content;
}

Tensor backward(const Tensor& grad, int64_t tokens, int64_t prefix, int64_t pitch, int64_t height, int64_t width,
                int64_t out_height, int64_t out_width) {
  const PoolWindow pool = pool_window(tokens, prefix, pitch, height, width, out_height, out_width);
  STD_TORCH_CHECK(grad.dim() == 3, "grad must be [F, cells, C], got ", grad.dim(), " dimensions");
  const int64_t frames = grad.size(0), channels = grad.size(2);
  const auto content = contiguous_like(grad, "grad", {frames, pool.cells(), channels}, grad.scalar_type());
  Tensor grad_patches = empty(grad, {frames, tokens, channels});
  adaptive_pool_backward_cpu({content->const_data_ptr(), dtype_of(grad, "grad"), frames, tokens, channels, pool},
                             grad_patches.mutable_data_ptr(), torch_threads());
  return grad_patches;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) {
  m.impl("adaptive_pool.cpu", TORCH_BOX(&forward));
  m.impl("adaptive_pool_backward.cpu", TORCH_BOX(&backward));
}

}  // namespace longreel
