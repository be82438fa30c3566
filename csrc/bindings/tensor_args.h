// From tensors to the plain views that the kernels take, with the checks that keep those memory-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "common/parallel.h"
#include "compress_frames/compress_frames.h"

namespace longreel {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Pool torch_threads();

Dtype dtype_of(const Tensor& tensor, const char* name);

// The window lies within `tokens` rows, and all sizes make sense.
PoolWindow pool_window(int64_t tokens, int64_t prefix, int64_t pitch, int64_t height, int64_t width, int64_t out_height,
                       int64_t out_width);

// Frame borders of packed patches on the CPU, as int64: 0, ..., total, never falling.
std::vector<int64_t> frame_offsets(const Tensor& cu_seqlens, int64_t total);

// A checked view of patches [F, N, C] or, with offsets, [total, C], on the CPU.
Patches patches_view(const Tensor& patches, const std::vector<int64_t>* offsets);

// Checked views of query [P, Q, M, C], its mask, and patches [F, N, C] or, with offsets, [total, C], on the CPU.
FrameProblem frame_problem(const Tensor& query, const Tensor& patches, const std::optional<Tensor>& query_mask,
                           const std::vector<int64_t>* offsets, double scale, const PoolWindow& pool);

// The same on any device, wherever the offsets are; packed: the number of frames, else -1.
FrameProblem frame_views(const Tensor& query, const Tensor& patches, const std::optional<Tensor>& query_mask, int64_t packed,
                         double scale, const PoolWindow& pool);

// The tensor where it is contiguous, else a copy: asking torch for it costs 1 us even where there is nothing to do.
Tensor dense(const Tensor& tensor);

// A contiguous tensor of this shape and dtype on the CPU, or none.
std::optional<Tensor> contiguous_like(const std::optional<Tensor>& tensor, const char* name, const std::vector<int64_t>& shape,
                                      ScalarType dtype);

// The same on the device of `patches`.
std::optional<Tensor> contiguous_beside(const Tensor& patches, const std::optional<Tensor>& tensor, const char* name,
                                        const std::vector<int64_t>& shape, ScalarType dtype);

// On the CPU, uninitialised (poisoned on request, see scratch.h), of the type of `like` unless another dtype is given.
Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, std::optional<ScalarType> dtype = std::nullopt);

// Contiguous, of the shape of `tensor`; empty where it is not asked for.
Tensor empty_gradient(const Tensor& tensor, int64_t needed);

void check_beside(const Tensor& patches, const std::optional<Tensor>& tensor, const char* name);

inline const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

}  // namespace longreel
