// longreel::adaptive_pool.cuda and its backward: tensors to pointers, on the current stream of their device.
#include <vector>

#include <torch/csrc/stable/library.h>

#include "adaptive_pool/cuda.h"
#include "bindings/cuda_device.h"

namespace longreel {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::f32;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    case ScalarType::Half:
      return Dtype::f16;
    default:
      STD_TORCH_CHECK(false, "adaptive_pool on CUDA takes float32, bfloat16 or float16");
  }
}

TokenStrides strides_of(const Tensor& tensor) { return {tensor.stride(0), tensor.stride(1), tensor.stride(2)}; }

// Nothing outside the tokens is read or written, whatever the caller passes.
void check(const Tensor& tensor, const PoolWindow& g, int64_t tokens) {
  STD_TORCH_CHECK(tensor.dim() == 3, "adaptive_pool takes three dimensions [F, N, C], given ", tensor.dim());
  STD_TORCH_CHECK(g.prefix >= 0 && g.pitch >= 1 && g.height >= 0 && g.width >= 0 && g.out_height >= 0 && g.out_width >= 0,
                  "adaptive_pool: a negative size in the pooling window");
  STD_TORCH_CHECK(g.height > 0 ? g.width > 0 && g.prefix + (g.height - 1) * g.pitch + g.width <= tokens : g.cells() == 0,
                  "adaptive_pool: a window of ", g.height, " x ", g.width, " tokens from ", g.prefix, ", ", g.pitch,
                  " apart, does not fit ", tokens, " tokens");
}

// The other forms are Triton's.
void check_form(int64_t out_frames, int64_t bilinear, const std::vector<int64_t>& grids) {
  STD_TORCH_CHECK(out_frames == 0 && bilinear == 0 && grids.empty(),
                  "adaptive_pool on CUDA averages the frames of [F, N, C] one by one");
}

Tensor adaptive_pool(const Tensor& patches, int64_t prefix, int64_t pitch, int64_t height, int64_t width, int64_t out_height,
                     int64_t out_width, int64_t out_frames, int64_t bilinear, std::vector<int64_t> grids) {
  check_form(out_frames, bilinear, grids);
  const PoolWindow window{prefix, pitch, height, width, out_height, out_width};
  check(patches, window, patches.size(1));
  const OnDeviceOf device(patches);
  Tensor content = torch::stable::new_empty(patches, {patches.size(0), window.cells(), patches.size(2)});
  check_launch(adaptive_pool_cuda(dtype_of(patches), patches.const_data_ptr(), strides_of(patches), patches.size(0),
                                  patches.size(2), window, content.mutable_data_ptr(), device.stream()));
  return content;
}

Tensor adaptive_pool_backward(const Tensor& grad, int64_t tokens, int64_t prefix, int64_t pitch, int64_t height, int64_t width,
                              int64_t out_height, int64_t out_width, int64_t out_frames, int64_t bilinear,
                              std::vector<int64_t> grids, int64_t) {
  check_form(out_frames, bilinear, grids);
  const PoolWindow window{prefix, pitch, height, width, out_height, out_width};
  check(grad, window, tokens);
  STD_TORCH_CHECK(grad.size(1) == window.cells(), "adaptive_pool_backward: grad has ", grad.size(1), " cells, the window ",
                  window.cells());
  const OnDeviceOf device(grad);
  Tensor grad_patches = torch::stable::new_empty(grad, {grad.size(0), tokens, grad.size(2)});
  check_launch(adaptive_pool_backward_cuda(dtype_of(grad), grad.const_data_ptr(), strides_of(grad), grad.size(0), tokens,
                                           grad.size(2), window, grad_patches.mutable_data_ptr(), device.stream()));
  return grad_patches;
}

}  // namespace
}  // namespace longreel

STABLE_TORCH_LIBRARY_IMPL(longreel, CUDA, m) {
  m.impl("adaptive_pool.cuda", TORCH_BOX(&longreel::adaptive_pool));
  m.impl("adaptive_pool_backward.cuda", TORCH_BOX(&longreel::adaptive_pool_backward));
}
