// Threads: kernels borrow the caller's pool through a callback and share work by a tile counter.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "common/inline.h"

namespace longreel {

// run(count, body, context) calls body(context, i) once for every 0 <= i < count, from up to `threads` threads at once.
struct Pool {
  int64_t threads;
  void (*run)(int64_t count, void (*body)(void* context, int64_t i), void* context);
};

// Workers worth waking: a thread costs more than `tiles_each` tiles of work are worth.
LONGREEL_INLINE int64_t workers_for(const Pool& pool, int64_t tiles, int64_t tiles_each) {
#if defined(__SANITIZE_THREAD__)
  // Small inputs too are shared, so that what threads do to each other shows.
  tiles_each = 1;
#endif
  return std::max<int64_t>(1, std::min(pool.threads, tiles / std::max<int64_t>(1, tiles_each)));
}

// Each worker runs body(worker, next), where next(&begin, &end) hands out [begin, end) of `tiles`, `grain` at a time.
// Which worker gets which tile varies from run to run: results must not depend on it.
template <class Body>
void share_tiles(const Pool& pool, int64_t workers, int64_t tiles, int64_t grain, const Body& body) {
  std::atomic<int64_t> counter{0};
  auto next = [&](int64_t* begin, int64_t* end) {
    *begin = counter.fetch_add(grain, std::memory_order_relaxed);
    *end = std::min(*begin + grain, tiles);
    return *begin < tiles;
  };
  auto work = [&](int64_t worker) { body(worker, next); };
  if (workers == 1) return work(0);
  pool.run(workers, [](void* context, int64_t i) { (*static_cast<decltype(work)*>(context))(i); }, &work);
}

}  // namespace longreel
