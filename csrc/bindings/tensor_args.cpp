#include "bindings/tensor_args.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "common/huge_pages.h"
#include "common/scratch.h"

namespace longreel {
namespace {

// Of the cells of a frame, and of a pooling window's sides: what they are multiplied by stays within 64 bits.
constexpr int64_t kMostCells = (int64_t{1} << 31) - 1;
// Of a result: their bytes, of any dtype, are below 2^63.
constexpr int64_t kMostElements = int64_t{1} << 58;

std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(tensor.size(i));
  return text + "]";
}

void check_cpu(const Tensor& tensor, const char* name) { STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU"); }

Queries queries_view(const Tensor& query, const std::optional<Tensor>& mask, const Patches& patches) {
  STD_TORCH_CHECK(query.dim() == 4, "query must be [P, Q, M, C], got ", shape_text(query));
  STD_TORCH_CHECK(query.size(3) == patches.channels, "query has ", query.size(3), " channels, patches have ", patches.channels);
  STD_TORCH_CHECK(query.size(1) == 1 || query.size(1) == patches.frames, "query must have 1 set or one per frame (",
                  patches.frames, "), got ", query.size(1));
  STD_TORCH_CHECK(dtype_of(query, "query") == patches.dtype, "query and patches must have one dtype");
  Queries view = {};
  view.data = query.const_data_ptr();
  view.prompts = query.size(0);
  view.sets = query.size(1);
  view.rows = query.size(2);
  view.prompt_stride = query.stride(0);
  view.set_stride = query.stride(1);
  view.row_stride = query.stride(2);
  view.channel_stride = query.stride(3);
  if (mask.has_value()) {
    STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool, "query_mask must be bool");
    STD_TORCH_CHECK(
        mask->dim() == 3 && mask->size(0) == view.prompts && mask->size(1) == view.sets && mask->size(2) == view.rows,
        "query_mask must be [", view.prompts, ", ", view.sets, ", ", view.rows, "], got ", shape_text(*mask));
    view.mask = static_cast<const bool*>(mask->const_data_ptr());
    view.mask_prompt_stride = mask->stride(0);
    view.mask_set_stride = mask->stride(1);
    view.mask_row_stride = mask->stride(2);
  }
  return view;
}

// packed: the number of packed frames, else -1.
Patches view_patches(const Tensor& patches, int64_t packed) {
  const int64_t dims = packed < 0 ? 3 : 2;
  STD_TORCH_CHECK(patches.dim() == dims, "patches must be ", dims == 3 ? "[F, N, C]" : "[total, C] with cu_seqlens", ", got ",
                  shape_text(patches));
  Patches view = {};
  view.data = patches.const_data_ptr();
  view.dtype = dtype_of(patches, "patches");
  view.channels = patches.size(dims - 1);
  view.row_stride = patches.stride(dims - 2);
  view.channel_stride = patches.stride(dims - 1);
  view.frames = packed < 0 ? patches.size(0) : packed;
  view.tokens = patches.size(dims - 2);
  view.frame_stride = packed < 0 ? patches.stride(0) : 0;
  STD_TORCH_CHECK(view.channels > 0, "patches must have at least one channel, got ", shape_text(patches));
  return view;
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor, const char* name, const std::vector<int64_t>& shape,
                                 ScalarType dtype) {
  if (!tensor.has_value()) return std::nullopt;
  bool same = tensor->scalar_type() == dtype && tensor->dim() == static_cast<int64_t>(shape.size());
  std::string wanted;
  for (size_t i = 0; i < shape.size(); ++i) {
    same = same && tensor->size(static_cast<int64_t>(i)) == shape[i];
    wanted += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  STD_TORCH_CHECK(same, name, " must have the dtype of its output and shape [", wanted, "], got ", shape_text(*tensor));
  return dense(*tensor);
}

}  // namespace

#if defined(__SANITIZE_THREAD__)

// ThreadSanitizer does not know how the OpenMP below PyTorch waits for its threads; those of C++ it knows.
Pool torch_threads() {
  const auto run = [](int64_t count, void (*body)(void*, int64_t), void* context) {
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < count; ++i) threads.emplace_back(body, context, i);
    if (count > 0) body(context, 0);
    for (std::thread& thread : threads) thread.join();
  };
  return {4, run};
}

#else

Pool torch_threads() {
  const auto run = [](int64_t count, void (*body)(void*, int64_t), void* context) {
    torch::stable::parallel_for(0, count, 1, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(context, i);
    });
  };
  return {static_cast<int64_t>(torch::stable::get_num_threads()), run};
}

#endif

Dtype dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::f32;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    case ScalarType::Half:
      return Dtype::f16;
    default:
      STD_TORCH_CHECK(false, name, " must be float32, bfloat16 or float16");
  }
}

PoolWindow pool_window(int64_t tokens, int64_t prefix, int64_t pitch, int64_t height, int64_t width, int64_t out_height,
                       int64_t out_width) {
  STD_TORCH_CHECK(prefix >= 0 && prefix <= tokens, "prefix must be in [0, ", tokens, "], got ", prefix);
  for (int64_t size : {height, width, out_height, out_width})
    STD_TORCH_CHECK(size >= 0 && size <= kMostCells, "pooling sizes are 0 to ", kMostCells, ", got ", height, " x ", width,
                    " to ", out_height, " x ", out_width);
  STD_TORCH_CHECK(out_width == 0 || out_height <= kMostCells / out_width, "at most ", kMostCells, " cells of a frame, got ",
                  out_height, " x ", out_width);
  const bool empty = height == 0 || width == 0;
  STD_TORCH_CHECK(empty == (out_height == 0 || out_width == 0), "a pooling window of ", height, " x ", width, " has no ",
                  out_height, " x ", out_width, " cells");
  STD_TORCH_CHECK(empty || pitch >= width, "pooling window of width ", width, " overlaps itself at pitch ", pitch);
  // Divided, not multiplied: no product leaves 64 bits.
  const int64_t rest = tokens - prefix - width;
  STD_TORCH_CHECK(empty || (rest >= 0 && height - 1 <= rest / pitch), "pooling window ", height, " x ", width, " at pitch ",
                  pitch, " exceeds ", tokens - prefix, " patches");
  return {prefix, pitch, height, width, out_height, out_width};
}

std::vector<int64_t> frame_offsets(const Tensor& cu_seqlens, int64_t total) {
  check_cpu(cu_seqlens, "cu_seqlens");
  const bool wide = cu_seqlens.scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(wide || cu_seqlens.scalar_type() == ScalarType::Int, "cu_seqlens must be int32 or int64");
  STD_TORCH_CHECK(cu_seqlens.dim() == 1 && cu_seqlens.size(0) >= 1, "cu_seqlens must be [F + 1], got ", shape_text(cu_seqlens));
  const void* data = cu_seqlens.const_data_ptr();
  const int64_t stride = cu_seqlens.stride(0);
  std::vector<int64_t> offsets(static_cast<size_t>(cu_seqlens.size(0)));
  for (size_t i = 0; i < offsets.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i) * stride;
    offsets[i] = wide ? static_cast<const int64_t*>(data)[at] : static_cast<const int32_t*>(data)[at];
    STD_TORCH_CHECK(i == 0 ? offsets[i] == 0 : offsets[i] >= offsets[i - 1], "cu_seqlens must start at 0 and never fall, got ",
                    offsets[i], " at ", i);
  }
  STD_TORCH_CHECK(offsets.back() == total, "cu_seqlens must end at the number of patches ", total, ", got ", offsets.back());
  return offsets;
}

Patches patches_view(const Tensor& patches, const std::vector<int64_t>* offsets) {
  check_cpu(patches, "patches");
  Patches view = view_patches(patches, offsets == nullptr ? -1 : static_cast<int64_t>(offsets->size()) - 1);
  view.offsets = offsets == nullptr ? nullptr : offsets->data();
  return view;
}

FrameProblem frame_problem(const Tensor& query, const Tensor& patches, const std::optional<Tensor>& query_mask,
                           const std::vector<int64_t>* offsets, double scale, const PoolWindow& pool) {
  check_cpu(query, "query");
  if (query_mask.has_value()) check_cpu(*query_mask, "query_mask");
  const Patches x = patches_view(patches, offsets);
  return {x, queries_view(query, query_mask, x), static_cast<float>(scale), pool};
}

FrameProblem frame_views(const Tensor& query, const Tensor& patches, const std::optional<Tensor>& query_mask, int64_t packed,
                         double scale, const PoolWindow& pool) {
  check_beside(patches, query, "query");
  check_beside(patches, query_mask, "query_mask");
  const Patches x = view_patches(patches, packed);
  return {x, queries_view(query, query_mask, x), static_cast<float>(scale), pool};
}

Tensor dense(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

std::optional<Tensor> contiguous_like(const std::optional<Tensor>& tensor, const char* name, const std::vector<int64_t>& shape,
                                      ScalarType dtype) {
  if (tensor.has_value()) check_cpu(*tensor, name);
  return contiguous(tensor, name, shape, dtype);
}

std::optional<Tensor> contiguous_beside(const Tensor& patches, const std::optional<Tensor>& tensor, const char* name,
                                        const std::vector<int64_t>& shape, ScalarType dtype) {
  check_beside(patches, tensor, name);
  return contiguous(tensor, name, shape, dtype);
}

void check_beside(const Tensor& patches, const std::optional<Tensor>& tensor, const char* name) {
  STD_TORCH_CHECK(!tensor.has_value() || tensor->device() == patches.device(), name, " must be on the device of the patches");
}

Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, std::optional<ScalarType> dtype) {
  // Past the dispatcher, which torch::stable::new_empty asks by name: it would cost 1.5 us a tensor.
  const auto dims = static_cast<int64_t>(shape.size());
  std::vector<int64_t> strides(shape.size(), 1);
  int64_t elements = 1;
  for (int64_t i = dims - 1; i >= 0; --i) {
    strides[i] = elements;
    // Beyond 64 bits sizes and strides wrap, and the memory that is made would be too small.
    STD_TORCH_CHECK(!__builtin_mul_overflow(elements, std::max<int64_t>(1, shape[i]), &elements) && elements < kMostElements,
                    "out of memory: a result of at least 2^58 elements");
  }
  int32_t number;
  if (dtype.has_value()) {
    number = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*dtype));
  } else {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &number));
  }
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, shape.data(), strides.data(), number, aoti_torch_device_type_cpu(), 0, &made));
  Tensor tensor(made);
  const int64_t bytes = tensor.numel() * static_cast<int64_t>(tensor.element_size());
  prefer_huge_pages(tensor.mutable_data_ptr(), bytes);
  poison(tensor.mutable_data_ptr(), bytes);
  return tensor;
}

Tensor empty_gradient(const Tensor& tensor, int64_t needed) {
  if (needed == 0) return empty(tensor, {0});
  const auto sizes = tensor.sizes();
  return empty(tensor, {sizes.begin(), sizes.end()});
}

}  // namespace longreel
