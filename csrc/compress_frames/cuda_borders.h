// Packed frames: where they begin and how they are cut into parts, found on the device.
#pragma once

#include "compress_frames/cuda.h"

namespace longreel {

// Parts of `part_tokens` rows: a frame has at least one.
LONGREEL_INLINE int64_t parts_of(int64_t tokens, int64_t part_tokens) {
  return tokens <= part_tokens ? 1 : ceil_div(tokens, part_tokens);
}

// No more parts than this.
inline int64_t most_parts(int64_t total, int64_t frames, int64_t part_tokens) { return total / part_tokens + frames; }

// offsets [F + 1] never fall and lie within the `total` rows; first_part [F + 1]; part_frame [most_parts].
cudaError_t find_borders(FrameBorders borders, int64_t total, int64_t frames, int64_t part_tokens, int64_t* offsets,
                         int64_t* first_part, int32_t* part_frame, cudaStream_t stream);

}  // namespace longreel
