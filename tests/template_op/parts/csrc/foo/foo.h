// foo: every element by a number. No torch.
#pragma once

#include <cstdint>

#include "common/numbers.h"

namespace longreel {

// out[i] = scale * x[i], both contiguous, of `count` elements; float32 arithmetic.
void foo_cpu(const void* x, void* out, Dtype dtype, int64_t count, float scale);

}  // namespace longreel
