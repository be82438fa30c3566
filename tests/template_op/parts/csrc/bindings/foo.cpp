#include "foo/foo.h"

#include "bindings/tensor_args.h"

namespace longreel {
namespace {

Tensor forward(const Tensor& x, double scale) {
  STD_TORCH_CHECK(x.dim() == 2, "x must be [F, C], got ", x.dim(), " dimensions");
  const std::vector<int64_t> shape{x.size(0), x.size(1)};
  const auto dense = contiguous_like(x, "x", shape, x.scalar_type());
  Tensor out = empty(x, shape);
  foo_cpu(dense->const_data_ptr(), out.mutable_data_ptr(), dtype_of(x, "x"), x.numel(), static_cast<float>(scale));
  return out;
}

Tensor backward(const Tensor& grad, int64_t columns, double scale) {
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(1) == columns, "grad must be [F, ", columns, "]");
  return forward(grad, scale);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) {
  m.impl("foo.cpu", TORCH_BOX(&forward));
  m.impl("foo_backward.cpu", TORCH_BOX(&backward));
}

}  // namespace longreel
