// csrc/bindings/cuda_device.h for emulated kernels, whose tensors are on the CPU.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace longreel {

class OnDeviceOf {
 public:
  explicit OnDeviceOf(const torch::stable::Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};

inline void check_launch(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "CUDA error ", static_cast<int>(status));
}

}  // namespace longreel

// The dispatch key that the bindings register their kernels for.
#define CUDA CPU
