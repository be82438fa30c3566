// The valid queries of one set, laid out for the kernels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/rows.h"
#include "common/scratch.h"
#include "common/transpose.h"
#include "compress_frames/compress_frames.h"

namespace longreel {
namespace {

// Columns of the score matrix: each prompt's valid queries, rounded up to whole panels of sixteen.
template <class T, class Dots>
class PackedQueries {
 public:
  using Row = typename Dots::Row;
  using Packed = typename Dots::Packed;

  // with_rows also keeps the queries as fp32 rows, which the backward needs.
  PackedQueries(const FrameProblem& problem, bool with_rows, Arena& arena)
      : problem_(problem),
        channels_(problem.patches.channels),
        padded_(round_up(channels_, Dots::multiple)),
        capacity_(problem.queries.prompts * round_up(problem.queries.rows, 16)),
        first_(arena.take<int64_t>(problem.queries.prompts + 1)),
        valid_(arena.take<int64_t>(problem.queries.prompts)),
        source_(arena.take<int64_t>(capacity_)),
        stage_(arena.take<Row>(16 * padded_)),
        panels_(arena.take<Packed>(capacity_ * padded_ / Dots::pair)),
        row_stride_(round_up(channels_, 16)),
        rows_(with_rows ? arena.take<float>(capacity_ * row_stride_) : nullptr),
        row_pointers_(with_rows ? arena.take<const float*>(capacity_) : nullptr) {}

  void pack(int64_t set) {
    const Queries& q = problem_.queries;
    int64_t column = 0;
    for (int64_t p = 0; p < q.prompts; ++p) {
      first_[p] = column;
      for (int64_t m = 0; m < q.rows; ++m) {
        if (q.valid(p, set, m)) source_[column++] = m;
      }
      valid_[p] = column - first_[p];
      for (; column % 16 != 0; ++column) source_[column] = -1;
      for (int64_t panel = first_[p]; panel < column; panel += 16) pack_panel(p, set, panel);
    }
    first_[q.prompts] = column;
  }

  int64_t capacity() const { return capacity_; }
  int64_t columns() const { return first_[problem_.queries.prompts]; }
  int64_t panels() const { return columns() / 16; }
  int64_t padded_channels() const { return padded_; }
  int64_t first(int64_t p) const { return first_[p]; }
  int64_t valid(int64_t p) const { return valid_[p]; }
  int64_t source(int64_t column) const { return source_[column]; }
  const Packed* packed() const { return panels_; }
  const float* const* rows() const { return row_pointers_; }  // [columns][C], zero where a column is padding

 private:
  void pack_panel(int64_t p, int64_t set, int64_t first) {
    const Queries& q = problem_.queries;
    const T* data = static_cast<const T*>(q.data);
    for (int64_t j = 0; j < 16; ++j) {
      const int64_t m = source_[first + j];
      const T* from = data + (m < 0 ? 0 : q.at(p, set, m));
      const int64_t length = m < 0 ? 0 : channels_;
      copy_row(from, q.channel_stride, length, stage_ + j * padded_, padded_);
      if (rows_ == nullptr) continue;
      float* row = rows_ + (first + j) * row_stride_;
      copy_row(from, q.channel_stride, length, row, row_stride_);
      row_pointers_[first + j] = row;
    }
    // [16, units] -> [units, 16], a unit being 32 bits: one fp32 channel or two bf16 ones
    static_assert(sizeof(Packed) == Dots::pair * sizeof(Row));
    const int64_t units = padded_ / Dots::pair;
    transpose_sixteen(stage_, padded_ * sizeof(Row), units, panels_ + first * units);
  }

  const FrameProblem& problem_;
  int64_t channels_, padded_, capacity_;
  int64_t* first_;
  int64_t* valid_;
  int64_t* source_;
  Row* stage_;
  Packed* panels_;
  int64_t row_stride_;
  float* rows_;
  const float** row_pointers_;
};

}  // namespace
}  // namespace longreel
