#pragma once

#include "common/numbers.h"

using __half = longreel::f16;

inline float __half2float(__half x) { return longreel::to_float(x); }
inline __half __float2half_rn(float x) { return longreel::from_float<longreel::f16>(x); }
