// What forward and backward share: the rows of one frame, and their scores against the packed queries.
#pragma once

#include "common/dots.h"
#include "common/frame_rows.h"
#include "compress_frames/queries.h"
#include "compress_frames/scheduler.h"

namespace longreel {
namespace {

inline int64_t longest_frame(const FrameProblem& problem) {
  int64_t longest = 0;
  for (int64_t f = 0; f < (problem.patches.offsets == nullptr ? 1 : problem.patches.frames); ++f) {
    longest = std::max(longest, problem.patches.rows(f));
  }
  return std::max<int64_t>(0, longest - problem.pool.prefix);
}

inline FrameSchedule frame_schedule(const FrameProblem& problem, const Pool& threads) {
  const Patches& x = problem.patches;
  const int64_t tokens = problem.total_tokens() / std::max<int64_t>(1, x.frames);
  return {x.frames, tokens, x.channels, problem.queries.prompts * problem.queries.rows, threads};
}

template <class T>
FrameReader<T> frame_reader(const FrameProblem& problem, Arena& arena) {
  return {problem.patches.channels, problem.patches.channel_stride, longest_frame(problem), arena};
}

// The tokens of frame f after the prefix.
template <class T>
FrameRows<T> read_frame(const FrameProblem& problem, const FrameReader<T>& reader, int64_t f) {
  const Patches& x = problem.patches;
  const int64_t prefix = problem.pool.prefix;
  return reader.read(static_cast<const T*>(x.data) + x.at(f, prefix), x.row_stride, x.rows(f) - prefix);
}

// s [tokens, columns] of one frame. Rows that the products cannot read in place go through a block of padded copies.
template <class T, class Dots>
class FrameScores {
 public:
  FrameScores(const FrameProblem& problem, const PackedQueries<T, Dots>& queries, Arena& arena)
      : channels_(problem.patches.channels),
        block_(arena.take<typename Dots::Row>(kBlock * queries.padded_channels())),
        s_(arena.take<float>(round_up(longest_frame(problem), Dots::rows_multiple) * queries.capacity())) {}

  // Returns the number of columns; see at().
  void compute(const FrameRows<T>& x, const PackedQueries<T, Dots>& queries) {
    columns_ = queries.columns();
    if (columns_ == 0) return;
    const int64_t padded = queries.padded_channels();
    int64_t n = 0;
    if constexpr (std::is_same_v<T, typename Dots::Row>) {
      if (padded == channels_) {
        n = x.count / Dots::rows_multiple * Dots::rows_multiple;
        Dots::run(x.data, x.stride, n, queries.packed(), queries.panels(), padded, s_, columns_,
                  Ahead::of(x[Dots::tile], x.stride, kStep));
      }
    }
    for (; n < x.count; n += kBlock) {
      const int64_t rows = std::min(kBlock, x.count - n), padded_rows = round_up(rows, Dots::rows_multiple);
      for (int64_t r = 0; r < padded_rows; ++r) {
        copy_row(x[r < rows ? n + r : n], 1, r < rows ? channels_ : 0, block_ + r * padded, padded);
      }
      Dots::run(block_, padded, padded_rows, queries.packed(), queries.panels(), padded, s_ + n * columns_, columns_,
                Ahead::of(x[n + kBlock], x.stride, kStep));
    }
  }

  float* data() const { return s_; }
  int64_t stride() const { return columns_; }

 private:
  static constexpr int64_t kBlock = std::max<int64_t>(24, Dots::tile);  // whole tiles
  static constexpr int64_t kStep = Dots::multiple;                      // channels of a step

  int64_t channels_;
  typename Dots::Row* block_;
  float* s_;
  int64_t columns_ = 0;
};

}  // namespace
}  // namespace longreel
