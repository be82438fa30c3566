// Query-to-patch softmax aggregation and adaptive pooling of frames on a CUDA stream; pointers are the device's.
#pragma once

#include <cuda_runtime_api.h>

#include "compress_frames/compress_frames.h"

namespace longreel {

// Borders of packed frames on the device, int32 or int64 [F + 1], read in place: what lies outside the patches is cut off.
// With borders, problem.patches holds the total of rows in `tokens`, and its `offsets` are null.
struct FrameBorders {
  const void* data;  // null: frames of one length
  bool wide;
  int64_t step;
};

// Arrays and results as for the CPU; problem.pool has no cells for attention alone. Each call is given workspace_bytes on the
// current device, aligned to 256 bytes.
cudaError_t compress_frames_cuda_workspace(const FrameProblem& problem, FrameBorders borders, int64_t* bytes);
cudaError_t compress_frames_cuda(const FrameProblem& problem, FrameBorders borders, const FrameOutputs& outputs,
                                 void* workspace, cudaStream_t stream);

// The same by clusters of blocks, of which each has a share of the channels: the patches go once to the multiprocessors. For
// 16-bit patches in whole 16 bytes, of compute capability 9.0 on with 227 KiB of shared memory a block (see cluster_takes).
constexpr int kClusterBlocks = 8, kClusterChannels = 8 * 352, kClusterRows = 64;
bool cluster_takes(const FrameProblem& problem);
cudaError_t compress_frames_cluster_workspace(const FrameProblem& problem, FrameBorders borders, int64_t* bytes);
cudaError_t compress_frames_cluster(const FrameProblem& problem, FrameBorders borders, const FrameOutputs& outputs,
                                    void* workspace, cudaStream_t stream);

// gradients.lse is not read: a large lse is rounded coarsely, so that softmax is normalised anew.
cudaError_t compress_frames_backward_cuda_workspace(const FrameProblem& problem, FrameBorders borders,
                                                    const FrameGradients& gradients, int64_t* bytes);
cudaError_t compress_frames_backward_cuda(const FrameProblem& problem, FrameBorders borders, const FrameGradients& gradients,
                                          void* workspace, cudaStream_t stream);

}  // namespace longreel
