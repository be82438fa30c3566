#include "token_scores/token_scores.h"

#include <tuple>

#include "bindings/tensor_args.h"

namespace longreel {
namespace {

std::tuple<Tensor, Tensor, Tensor> token_scores(const Tensor& patches, const Tensor& query, const std::optional<Tensor>& before,
                                                double scale) {
  const Patches x = patches_view(patches, nullptr);
  STD_TORCH_CHECK(query.is_cpu() && query.dim() == 2 && query.size(1) == x.channels && dtype_of(query, "query") == x.dtype,
                  "query must be [M, ", x.channels, "] of the patches' dtype on the CPU");
  TokenScoresProblem problem = {};
  problem.patches = x.data, problem.query = query.const_data_ptr(), problem.dtype = x.dtype;
  problem.frames = x.frames, problem.tokens = x.tokens, problem.channels = x.channels, problem.queries = query.size(0);
  problem.frame_stride = x.frame_stride, problem.row_stride = x.row_stride, problem.channel_stride = x.channel_stride;
  problem.query_stride = query.stride(0), problem.query_channel_stride = query.stride(1);
  problem.before_channel_stride = 1, problem.scale = static_cast<float>(scale);
  if (before.has_value()) {
    STD_TORCH_CHECK(before->is_cpu() && before->dim() == 2 && before->size(0) == x.tokens && before->size(1) == x.channels &&
                        dtype_of(*before, "before") == x.dtype,
                    "before must be [", x.tokens, ", ", x.channels, "] of the patches' dtype on the CPU");
    problem.before = before->const_data_ptr();
    problem.before_stride = before->stride(0), problem.before_channel_stride = before->stride(1);
  }
  Tensor products = empty(patches, {x.frames, x.tokens, problem.queries}, ScalarType::Float);
  Tensor change = empty(patches, {x.frames, x.tokens}, ScalarType::Float);
  Tensor uniqueness = empty(patches, {x.frames, x.tokens}, ScalarType::Float);
  token_scores_cpu(problem,
                   {static_cast<float*>(products.mutable_data_ptr()), static_cast<float*>(change.mutable_data_ptr()),
                    static_cast<float*>(uniqueness.mutable_data_ptr())},
                   torch_threads());
  return {products, change, uniqueness};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) { m.impl("token_scores.cpu", TORCH_BOX(&token_scores)); }

}  // namespace longreel
