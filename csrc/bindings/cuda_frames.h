// What context_attention and compress_frames share on CUDA: checked arguments, outputs and workspace of a pass over frames.
#pragma once

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/cuda_device.h"
#include "bindings/tensor_args.h"
#include "compress_frames/cuda.h"

namespace longreel {

struct FrameArguments {
  FrameBorders borders = {};
  FrameProblem problem;
  std::vector<int64_t> context_shape, weights_shape, lse_shape;

  FrameArguments(const Tensor& query, const Tensor& patches, const std::optional<Tensor>& query_mask,
                 const std::optional<Tensor>& cu_seqlens, double scale, const PoolWindow& pool) {
    int64_t packed = -1;
    if (cu_seqlens.has_value()) {
      check_beside(patches, cu_seqlens, "cu_seqlens");
      const bool wide = cu_seqlens->scalar_type() == ScalarType::Long;
      STD_TORCH_CHECK(wide || cu_seqlens->scalar_type() == ScalarType::Int, "cu_seqlens must be int32 or int64");
      STD_TORCH_CHECK(cu_seqlens->dim() == 1 && cu_seqlens->size(0) >= 1, "cu_seqlens must be [F + 1], got ", cu_seqlens->dim(),
                      " dimensions");
      borders = {cu_seqlens->const_data_ptr(), wide, cu_seqlens->stride(0)};
      packed = cu_seqlens->size(0) - 1;
    }
    problem = frame_views(query, patches, query_mask, packed, scale, pool);
    const int64_t prompts = problem.queries.prompts, frames = problem.patches.frames;
    STD_TORCH_CHECK(std::max({problem.patches.tokens, frames, prompts * problem.queries.rows}) <= INT32_MAX,
                    "the CUDA kernels take up to 2^31 - 1 frames, patches of a frame and queries of a frame, got ", frames,
                    ", ", problem.patches.tokens, " and ", prompts * problem.queries.rows);
    const int64_t tokens = problem.patches.tokens - pool.prefix;
    context_shape = {prompts, frames, problem.patches.channels};
    weights_shape = packed >= 0 ? std::vector<int64_t>{prompts, tokens} : std::vector<int64_t>{prompts, frames, tokens};
    lse_shape = {prompts, frames, problem.queries.rows};
  }
};

inline Tensor allocate(const Tensor& like, const std::vector<int64_t>& shape, std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_empty(like, {shape.data(), shape.size()}, dtype);
}

// The shape of a gradient, of no elements where it is not wanted.
inline std::vector<int64_t> shape_if(const Tensor& tensor, bool wanted) {
  if (!wanted) return {0};
  const auto sizes = tensor.sizes();
  return {sizes.begin(), sizes.end()};
}

// context, weights, lse; content is filled beside them if there are cells.
inline std::tuple<Tensor, Tensor, Tensor> run_forward(const FrameArguments& args, const Tensor& patches, void* content,
                                                      const OnDeviceOf& device, decltype(&compress_frames_cuda_workspace) size,
                                                      decltype(&compress_frames_cuda) run) {
  Tensor context = allocate(patches, args.context_shape);
  Tensor weights = allocate(patches, args.weights_shape, ScalarType::Float);
  Tensor lse = allocate(patches, args.lse_shape, ScalarType::Float);
  int64_t bytes = 0;
  check_launch(size(args.problem, args.borders, &bytes));
  Tensor workspace = allocate(patches, {bytes}, ScalarType::Byte);
  check_launch(run(args.problem, args.borders,
                   {context.mutable_data_ptr(), content, static_cast<float*>(weights.mutable_data_ptr()),
                    static_cast<float*>(lse.mutable_data_ptr())},
                   workspace.mutable_data_ptr(), device.stream()));
  return {context, weights, lse};
}

inline std::tuple<Tensor, Tensor, Tensor> run_blocks(const FrameArguments& args, const Tensor& patches, void* content,
                                                     const OnDeviceOf& device) {
  return run_forward(args, patches, content, device, compress_frames_cuda_workspace, compress_frames_cuda);
}

inline std::tuple<Tensor, Tensor, Tensor> run_cluster(const FrameArguments& args, const Tensor& patches, void* content,
                                                      const OnDeviceOf& device) {
  STD_TORCH_CHECK(cluster_takes(args.problem), "clusters take 16-bit patches whose rows are whole 16 bytes, up to ",
                  kClusterChannels, " channels and ", kClusterRows, " query rows");
  return run_forward(args, patches, content, device, compress_frames_cluster_workspace, compress_frames_cluster);
}

// What is wanted of grad_query and grad_patches; upstream gradients are contiguous.
inline std::tuple<Tensor, Tensor> run_backward(const FrameArguments& args, const Tensor& query, const Tensor& patches,
                                               FrameGradients gradients, bool need_query, bool need_patches,
                                               const OnDeviceOf& device) {
  Tensor grad_query = allocate(query, shape_if(query, need_query));
  Tensor grad_patches = allocate(patches, shape_if(patches, need_patches));
  gradients.grad_query = need_query ? grad_query.mutable_data_ptr() : nullptr;
  gradients.grad_patches = need_patches ? grad_patches.mutable_data_ptr() : nullptr;
  int64_t bytes = 0;
  check_launch(compress_frames_backward_cuda_workspace(args.problem, args.borders, gradients, &bytes));
  Tensor workspace = allocate(patches, {bytes}, ScalarType::Byte);
  check_launch(
      compress_frames_backward_cuda(args.problem, args.borders, gradients, workspace.mutable_data_ptr(), device.stream()));
  return {grad_query, grad_patches};
}

}  // namespace longreel
