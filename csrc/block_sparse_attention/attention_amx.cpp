#include "../common/lanes_avx512.h"

#include "attention_kernels.h"
#include "strips_amx.h"

#include "backward_kernel.h"
#include "forward_kernel.h"

namespace longreel {

AttentionKernels attention_kernels_amx_bf16() {
  return {attention_forward<bf16, StripsAmx>, attention_backward<bf16, StripsAmx>};
}

}  // namespace longreel
