#include "adaptive_pool/adaptive_pool.h"

#include "bindings/tensor_args.h"

namespace longreel {
namespace {

constexpr int64_t kMost = int64_t{1} << 31;

void append(std::vector<PoolPicture>& pictures, PoolPicture one) {
  const bool first = pictures.empty();
  one.cell_rows = (first ? 0 : pictures.back().cell_rows) + (one.across.out == 0 ? 0 : one.time.out * one.down.out);
  one.frames = (first ? 0 : pictures.back().frames) + one.time.size;
  pictures.push_back(one);
}

// F frames [F, N, C], each by itself or all to out_frames. frame_step, and 1 or the step from cell to cell, as in PoolPicture.
std::vector<PoolPicture> of_frames(int64_t frames, int64_t tokens, const PoolWindow& pool, int64_t out_frames, bool linear,
                                   int64_t frame_step) {
  STD_TORCH_CHECK(out_frames >= 0 && out_frames < kMost && (out_frames == 0 || frames > 0), "a pooling of ", frames,
                  " frames to ", out_frames);
  std::vector<PoolPicture> pictures;
  const PoolAxis down{pool.height, pool.out_height, linear}, across{pool.width, pool.out_width, linear};
  if (out_frames > 0) {
    append(pictures, {{frames, out_frames, false}, down, across, 0, frame_step, 0, tokens, pool.prefix, pool.pitch, 0, 0});
    return pictures;
  }
  pictures.reserve(static_cast<size_t>(frames));
  for (int64_t f = 0; f < frames; ++f) {
    append(pictures, {{1, 1, false}, down, across, f * frame_step, 0, f * pool.cells(), tokens, pool.prefix, pool.pitch, 0, 0});
  }
  return pictures;
}

// Packed pictures of six numbers each; row_step: from token to token. `cells`: of all.
std::vector<PoolPicture> of_grids(const std::vector<int64_t>& grids, int64_t tokens, bool linear, int64_t row_step,
                                  int64_t* cells) {
  std::vector<PoolPicture> pictures;
  int64_t from = 0, to = 0;
  STD_TORCH_CHECK(grids.size() % 6 == 0, "pooling grids are six numbers a picture, got ", grids.size());
  for (size_t at = 0; at < grids.size(); at += 6) {
    const int64_t* n = grids.data() + at;
    for (int i = 0; i < 6; ++i) STD_TORCH_CHECK(n[i] >= 1 && n[i] < kMost, "pooling grids are 1 to 2^31 - 1, got ", n[i]);
    STD_TORCH_CHECK(
        n[1] <= tokens / n[0] && n[2] <= tokens / (n[0] * n[1]) && n[4] < kMost / n[3] && n[5] < kMost / (n[3] * n[4]),
        "a pooling grid of ", n[0], " x ", n[1], " x ", n[2], " exceeds ", tokens, " patches, or has too many cells");
    const int64_t rows = n[1] * n[2];
    append(pictures, {{n[0], n[3], false},
                      {n[1], n[4], linear},
                      {n[2], n[5], linear},
                      from * row_step,
                      rows * row_step,
                      to,
                      rows,
                      0,
                      n[2],
                      0,
                      0});
    from += n[0] * rows, to += n[3] * n[4] * n[5];
  }
  STD_TORCH_CHECK(from == tokens, "pooling grids have ", from, " tokens, patches have ", tokens);
  *cells = to;
  return pictures;
}

PoolPictures view(const std::vector<PoolPicture>& pictures) { return {pictures.data(), static_cast<int64_t>(pictures.size())}; }

Tensor forward(const Tensor& patches, int64_t prefix, int64_t pitch, int64_t height, int64_t width, int64_t out_height,
               int64_t out_width, int64_t out_frames, int64_t bilinear, std::vector<int64_t> grids) {
  if (patches.dim() == 2) {
    STD_TORCH_CHECK(patches.is_cpu() && patches.size(1) > 0, "packed patches must be [total, C] on the CPU");
    int64_t cells = 0;
    const auto pictures = of_grids(grids, patches.size(0), bilinear != 0, patches.stride(0), &cells);
    Tensor content = empty(patches, {cells, patches.size(1)});
    adaptive_pool_cpu({patches.const_data_ptr(), dtype_of(patches, "patches"), patches.size(1), patches.stride(0),
                       patches.stride(1), view(pictures)},
                      content.mutable_data_ptr(), torch_threads());
    return content;
  }
  const Patches x = patches_view(patches, nullptr);
  const PoolWindow pool = pool_window(x.tokens, prefix, pitch, height, width, out_height, out_width);
  const auto pictures = of_frames(x.frames, x.tokens, pool, out_frames, bilinear != 0, x.frame_stride);
  Tensor content = empty(patches, {out_frames > 0 ? out_frames : x.frames, pool.cells(), x.channels});
  adaptive_pool_cpu({x.data, x.dtype, x.channels, x.row_stride, x.channel_stride, view(pictures)}, content.mutable_data_ptr(),
                    torch_threads());
  return content;
}

Tensor backward(const Tensor& grad, int64_t tokens, int64_t prefix, int64_t pitch, int64_t height, int64_t width,
                int64_t out_height, int64_t out_width, int64_t out_frames, int64_t bilinear, std::vector<int64_t> grids,
                int64_t frames) {
  const bool packed = grad.dim() == 2;
  STD_TORCH_CHECK(packed || grad.dim() == 3, "grad must be [F, cells, C] or packed [cells, C], got ", grad.dim(),
                  " dimensions");
  const int64_t channels = grad.size(packed ? 1 : 2);
  int64_t cells = 0;
  std::vector<PoolPicture> pictures;
  std::vector<int64_t> shape, made;
  if (packed) {
    pictures = of_grids(grids, tokens, bilinear != 0, 1, &cells);
    shape = {cells, channels}, made = {tokens, channels};
  } else {
    const PoolWindow pool = pool_window(tokens, prefix, pitch, height, width, out_height, out_width);
    if (out_frames == 0) frames = grad.size(0);
    pictures = of_frames(frames, tokens, pool, out_frames, bilinear != 0, tokens);
    shape = {out_frames > 0 ? out_frames : frames, pool.cells(), channels}, made = {frames, tokens, channels};
  }
  const auto content = contiguous_like(grad, "grad", shape, grad.scalar_type());
  Tensor grad_patches = empty(grad, made);
  adaptive_pool_backward_cpu({content->const_data_ptr(), dtype_of(grad, "grad"), channels, view(pictures)},
                             grad_patches.mutable_data_ptr(), torch_threads());
  return grad_patches;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longreel, CPU, m) {
  m.impl("adaptive_pool.cpu", TORCH_BOX(&forward));
  m.impl("adaptive_pool_backward.cpu", TORCH_BOX(&backward));
}

}  // namespace longreel
