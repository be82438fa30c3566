// Runs the threads of one block, or of one cluster of blocks, as fibres.
#pragma once

#include "emulator.h"

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include <ucontext.h>

namespace emulator {

constexpr size_t kStack = 128 << 10;
constexpr size_t kMostExchanged = 64;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel: %s\n", what);
  std::abort();
}

enum class State { ready, at_warp, at_block, at_cluster, at_arrival, done };

struct Copy {
  void* to;
  const void* from;
  bool inside;
};

struct Row {
  void* to;
  const void* from;
  unsigned bytes;
};

// Ends its phase when it was announced to and the announced bytes have arrived; they arrive when it is waited for.
struct Expected {
  bool announced;
  int64_t bytes;
  unsigned phases;
  std::vector<Row> rows;
};

// A thread of the emulated block: entered by a context of its own, then switched by jumps, which cost no system call.
struct Fibre {
  Place place;
  State state;
  bool entered;
  const char* operation;
  int exchanges;
  int arrivals;         // at the cluster's barrier
  Expected* waits_for;  // until its phase of that parity has ended
  unsigned parity;
  jmp_buf jump;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

struct Slots {
  alignas(16) unsigned char bytes[2][kWarp * kMostExchanged];
};

// One block at a time, or one cluster of blocks.
class Machine {
 public:
  // `block` and the blocks that follow it in x, `cluster` together.
  void run(dim3 grid, dim3 size, dim3 block, unsigned cluster, size_t shared_bytes, unsigned order,
           const std::function<void()>& kernel) {
    kernel_ = &kernel;
    per_block_ = static_cast<int>(size.x * size.y * size.z);
    const int count = per_block_ * static_cast<int>(cluster), warps = (per_block_ + kWarp - 1) / kWarp;
    while (static_cast<int>(fibres_.size()) < count) fibres_.push_back(std::make_unique<Fibre>());
    warps_.resize(warps * cluster);
    shared_.assign(cluster, std::vector<unsigned char>(shared_bytes + 128, 0xff));
    expected_.clear();
    for (int i = 0; i < count; ++i) {
      Fibre& fibre = *fibres_[i];
      const auto n = static_cast<unsigned>(i % per_block_), rank = static_cast<unsigned>(i / per_block_);
      fibre.place = {{n % size.x, n / size.x % size.y, n / (size.x * size.y)},
                     {block.x + rank, block.y, block.z},
                     size,
                     grid,
                     static_cast<int>(n) % kWarp,
                     rank,
                     cluster};
      fibre.state = State::ready;
      fibre.entered = false;
      fibre.exchanges = fibre.arrivals = 0;
    }
    std::minstd_rand random(order + block.x);
    order_ = in_order(per_block_, order, random);
    // A block runs as far ahead of those behind it as it can.
    const std::vector<int> ranks = in_order(static_cast<int>(cluster), order, random);
    for (int live = count; live > 0;) {
      const auto next = std::find_if(ranks.begin(), ranks.end(), [&](int rank) { return any_ready(rank); });
      if (next == ranks.end()) fail("threads wait for one another at different places");
      if (order > 1) std::shuffle(order_.begin(), order_.end(), random);
      for (int i : order_) {
        Fibre& fibre = *fibres_[*next * per_block_ + i];
        if (fibre.state == State::ready) resume(fibre);
        live -= fibre.state == State::done && std::exchange(fibre.operation, nullptr) != nullptr;
      }
      release_block(*next);
      if (!any_ready(*next)) release_cluster(count);
    }
    for (auto& [place, expected] : expected_) {
      if (!expected.rows.empty()) fail("a cluster left while its copies were under way");
    }
  }

  void wait(State state, const char* operation) {
    current_->state = state;
    current_->operation = operation;
    if (_setjmp(current_->jump) == 0) _longjmp(scheduler_, 1);
  }

  Fibre& current() { return *current_; }
  Slots& slots() {
    const auto warps = static_cast<int>((per_block_ + kWarp - 1) / kWarp);
    return warps_[static_cast<int>(current_->place.rank) * warps + index() / kWarp];
  }
  unsigned char* shared(unsigned rank) {
    unsigned char* const bytes = shared_[rank].data();
    return bytes + (128 - reinterpret_cast<uintptr_t>(bytes) % 128) % 128;
  }
  unsigned char* shared() { return shared(current_->place.rank); }

  uintptr_t in_block(uintptr_t own, unsigned rank) {
    const uintptr_t offset = own - reinterpret_cast<uintptr_t>(shared());
    if (offset >= shared_[0].size() - 128) fail("a place in another block is not one of this block's shared memory");
    if (rank >= current_->place.cluster) fail("a cluster has no block of this rank");
    if (block_is(rank, State::done)) fail("the shared memory of a block that has left is read");
    return reinterpret_cast<uintptr_t>(shared(rank)) + offset;
  }

  Expected& expected(void* arrival) {
    const auto found = expected_.find(arrival);
    if (found == expected_.end()) fail("an arrival is used before it is initialised");
    return found->second;
  }
  void init_arrival(void* arrival) { expected_[arrival] = {}; }

 private:
  // Whether all threads of a block are in this state, or have left.
  bool block_is(unsigned rank, State state) const {
    const int first = static_cast<int>(rank) * per_block_;
    for (int i = first; i < first + per_block_; ++i) {
      if (fibres_[i]->state != state && fibres_[i]->state != State::done) return false;
    }
    return true;
  }

  int index() const {
    const Place& p = current_->place;
    return static_cast<int>(p.thread.x + p.block_size.x * (p.thread.y + p.block_size.y * p.thread.z));
  }

  static void enter(unsigned high, unsigned low) {
    auto* const machine = reinterpret_cast<Machine*>(static_cast<uintptr_t>(high) << 32 | low);
    (*machine->kernel_)();
    Fibre& fibre = *machine->current_;
    if (!fibre.open.empty() || !fibre.groups.empty()) fail("a thread left while its copies were under way");
    fibre.state = State::done;
    fibre.operation = "end";
    _longjmp(machine->scheduler_, 1);
  }

  void resume(Fibre& fibre) {
    current_ = &fibre;
    if (_setjmp(scheduler_) != 0) return;
    if (fibre.entered) _longjmp(fibre.jump, 1);
    fibre.entered = true;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStack;
    fibre.context.uc_link = nullptr;
    const auto self = reinterpret_cast<uintptr_t>(this);
    makecontext(&fibre.context, reinterpret_cast<void (*)()>(enter), 2, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self));
    setcontext(&fibre.context);
  }

  static std::vector<int> in_order(int count, unsigned order, std::minstd_rand& random) {
    std::vector<int> all(count);
    for (int i = 0; i < count; ++i) all[i] = order == 1 ? count - 1 - i : i;
    if (order > 1) std::shuffle(all.begin(), all.end(), random);
    return all;
  }

  bool any_ready(int rank) const {
    for (int i = rank * per_block_; i < (rank + 1) * per_block_; ++i) {
      if (fibres_[i]->state == State::ready) return true;
    }
    return false;
  }

  // Lets those of a block go on whom all that they wait for in the block have reached.
  void release_block(int rank) {
    const int begin = rank * per_block_, end = begin + per_block_;
    bool of_warps = false, waits = false;
    for (int first = begin; first < end; first += kWarp)
      of_warps = release_warp(first, std::min(first + kWarp, end)) || of_warps;
    if (of_warps || !block_is(static_cast<unsigned>(rank), State::at_block)) return;
    for (int i = begin; i < end; ++i) {
      if (fibres_[i]->state != State::at_block) continue;
      fibres_[i]->state = State::ready;
      waits = true;
    }
    // All have left: what they kept is gone.
    if (!waits) std::fill(shared_[rank].begin(), shared_[rank].end(), 0xff);
  }

  // And those who wait for the whole cluster, or for what a copy engine brings.
  void release_cluster(int count) {
    int fewest = INT32_MAX;
    for (int i = 0; i < count; ++i) {
      if (fibres_[i]->state != State::done) fewest = std::min(fewest, fibres_[i]->arrivals);
    }
    for (int i = 0; i < count; ++i) {
      Fibre& fibre = *fibres_[i];
      const bool met = fibre.state == State::at_cluster && fibre.arrivals <= fewest;
      if (met || (fibre.state == State::at_arrival && ended(*fibre.waits_for, fibre.parity))) fibre.state = State::ready;
    }
  }

  bool release_warp(int first, int last) {
    const char* operation = fibres_[first]->operation;
    for (int i = first; i < last; ++i) {
      if (fibres_[i]->state != State::at_warp) return false;
      if (std::strcmp(fibres_[i]->operation, operation) != 0) fail("lanes of a warp are in different operations");
    }
    for (int i = first; i < last; ++i) fibres_[i]->state = State::ready;
    return true;
  }

  // Whether the phase of this parity has ended, as it does where all that was announced is under way.
  static bool ended(Expected& expected, unsigned parity) {
    int64_t under_way = 0;
    for (const Row& row : expected.rows) under_way += row.bytes;
    if (expected.phases % 2 == parity && expected.announced && under_way == expected.bytes) {
      for (const Row& row : expected.rows) std::memcpy(row.to, row.from, row.bytes);
      expected = {false, 0, expected.phases + 1, {}};
    }
    return expected.phases % 2 != parity;
  }

  const std::function<void()>* kernel_ = nullptr;
  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::vector<Slots> warps_;
  std::vector<std::vector<unsigned char>> shared_;
  std::map<void*, Expected> expected_;
  std::vector<int> order_;
  int per_block_ = 0;
  Fibre* current_ = nullptr;
  jmp_buf scheduler_;
};

}  // namespace emulator
