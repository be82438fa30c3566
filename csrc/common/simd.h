// Lanes of the instruction set that a source file is compiled for: CMake defines LONGREEL_LANES_<set> beside its flags.
#pragma once

#if defined(LONGREEL_LANES_AVX512)
#include "common/lanes_avx512.h"
#else
#if defined(LONGREEL_LANES_AVX2)
#include "common/lanes_avx2.h"
#else
#include "common/lanes_portable.h"
#endif

#include "common/lanes_partial.h"
#endif
