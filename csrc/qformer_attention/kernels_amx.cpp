#include "qformer_attention/backward_kernel.h"
#include "qformer_attention/forward_amx.h"
#include "qformer_attention/qformer_kernels.h"

namespace longreel {

namespace {

template <class T, int Planes>
constexpr QFormerKernels kernels = {qformer_forward<T, TileProducts<Planes>, TileQueries<T, Planes>, TileSums<T, Planes>>,
                                    qformer_backward<T, TileProducts<Planes>>};

}  // namespace

QFormerKernels qformer_kernels_amx(Dtype dtype) { return dtype == Dtype::bf16 ? kernels<bf16, 1> : kernels<float, 3>; }

}  // namespace longreel
