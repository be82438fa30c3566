// Kernels are compiled once per instruction set. A shared inline function must vanish into its callers there: a copy left
// over would be merged by the linker, and a machine without that instruction set might run it.
#pragma once

#if defined(__CUDACC__)
#define LONGREEL_INLINE __host__ __device__ __forceinline__
#else
#define LONGREEL_INLINE [[gnu::always_inline]] inline
#endif
