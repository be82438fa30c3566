#include "foo/foo.h"

namespace longreel {
namespace {

template <class T>
void scaled(const T* x, T* out, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) out[i] = from_float<T>(scale * to_float(x[i]));
}

}  // namespace

void foo_cpu(const void* x, void* out, Dtype dtype, int64_t count, float scale) {
  switch (dtype) {
    case Dtype::f32:
      return scaled(static_cast<const float*>(x), static_cast<float*>(out), count, scale);
    case Dtype::bf16:
      return scaled(static_cast<const bf16*>(x), static_cast<bf16*>(out), count, scale);
    case Dtype::f16:
      return scaled(static_cast<const f16*>(x), static_cast<f16*>(out), count, scale);
  }
}

}  // namespace longreel
