#include "../common/lanes_avx512.h"

#include "attention_kernels.h"
#include "strips_bf16.h"

#include "backward_kernel.h"
#include "forward_kernel.h"

namespace longreel {

AttentionKernels attention_kernels_avx512_bf16() {
  return {attention_forward<bf16, StripsBf16>, attention_backward<bf16, StripsBf16>};
}

}  // namespace longreel
