// How the frames of a call are cut among workers: numbers alone, the same for every instruction set.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/numbers.h"
#include "common/parallel.h"

namespace longreel {

// Multiplications that make it worth waking a thread.
constexpr int64_t kWorthAThread = 1 << 18;

// `workers` take `grain` neighbouring frames at a time, whoever is free.
struct FrameSchedule {
  int64_t workers, grain;

  // Frames of so many tokens on average; queries: of all prompts.
  LONGREEL_INLINE FrameSchedule(int64_t frames, int64_t tokens, int64_t channels, int64_t queries, const Pool& threads) {
    const int64_t cost = tokens * channels * (queries + 2);
    workers = workers_for(threads, frames, ceil_div(kWorthAThread, std::max<int64_t>(1, cost)));
    // Neighbouring frames go to one worker, which prefetches across their border, while enough are left to balance.
    grain = std::clamp<int64_t>(frames / (workers * 16), 1, 8);
  }
};

// Frames are cut into chunks, each with its own sum of the shared queries' gradient: neither the chunks nor the order in
// which they are joined depends on the number of threads.
struct QueryChunks {
  static constexpr int64_t most = 64, fewest = 8, workspace = 11 << 20;

  int64_t frames, count, size;  // size: floats of one sum

  LONGREEL_INLINE QueryChunks(int64_t frames, int64_t size) : frames(frames), size(size) {
    const int64_t fitting = workspace / std::max<int64_t>(1, size * static_cast<int64_t>(sizeof(float)));
    count = std::min(frames, std::clamp(fitting, fewest, most));
  }

  LONGREEL_INLINE int64_t begin(int64_t chunk) const { return chunk * frames / count; }
};

}  // namespace longreel
