#pragma once

#include "common/numbers.h"

using __nv_bfloat16 = longreel::bf16;

inline float __bfloat162float(__nv_bfloat16 x) { return longreel::to_float(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return longreel::from_float<longreel::bf16>(x); }
