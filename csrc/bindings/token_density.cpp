#include "token_density/token_density.h"

#include <tuple>

#include "bindings/tensor_args.h"

namespace longreel {
namespace {

std::tuple<Tensor, Tensor, Tensor> token_density(const Tensor& x) {
  STD_TORCH_CHECK(x.is_cpu() && x.dim() == 2 && x.size(1) > 0, "x must be [n, C] on the CPU, C from 1 on");
  const int64_t n = x.size(0);
  Tensor likeness = empty(x, {n, n}, ScalarType::Float);
  Tensor density = empty(x, {n}, ScalarType::Float);
  Tensor denser = empty(x, {n}, ScalarType::Float);
  token_density_cpu({x.const_data_ptr(), dtype_of(x, "x"), n, x.size(1), x.stride(0), x.stride(1)},
                    {static_cast<float*>(likeness.mutable_data_ptr()), static_cast<float*>(density.mutable_data_ptr()),
                     static_cast<float*>(denser.mutable_data_ptr())},
                    torch_threads());
  return {likeness, density, denser};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) { m.impl("token_density.cpu", TORCH_BOX(&token_density)); }

}  // namespace longreel
