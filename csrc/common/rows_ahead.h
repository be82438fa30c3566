// Rows that are wanted soon, fetched a few lines at a time while others are computed with: a core has few lines under way, and
// all at once they would wait for each other.
#pragma once

#include <algorithm>
#include <cstdint>

namespace longreel {
namespace {

class RowsAhead {
 public:
  void clear() { count_ = at_ = row_ = left_ = owed_ = 0; }

  // `rows` of `bytes`, `stride` bytes from one to the next. Those that there is no room for are read when they are needed.
  void add(const void* first, int64_t stride, int64_t rows, int64_t bytes) {
    if (rows <= 0 || count_ == kMost) return;
    const int64_t lines = (bytes + 126) / 64;  // a row may begin inside a line
    sets_[count_++] = {static_cast<const char*>(first), stride, rows, bytes, lines};
    left_ += rows * lines;
  }

  // Lines that are left, for so many calls of fetch().
  int64_t each(int64_t calls) const { return (left_ + calls - 1) / std::max<int64_t>(1, calls); }

  void fetch(int64_t lines) {
    for (owed_ += lines; owed_ > 0 && at_ < count_;) {
      const Set& set = sets_[at_];
      const char* row = set.first + row_ * set.stride;
      for (int64_t i = 0; i < set.bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
      __builtin_prefetch(row + set.bytes - 1, 0, 2);
      owed_ -= set.lines;
      left_ -= set.lines;
      if (++row_ == set.rows) ++at_, row_ = 0;
    }
  }

 private:
  static constexpr int64_t kMost = 32;
  struct Set {
    const char* first;
    int64_t stride, rows, bytes, lines;
  };

  Set sets_[kMost];
  int64_t count_ = 0, at_ = 0, row_ = 0, left_ = 0, owed_ = 0;
};

}  // namespace
}  // namespace longreel
