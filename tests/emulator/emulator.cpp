#include "emulator.h"

#include <atomic>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include <ucontext.h>

namespace emulator {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr size_t kMostExchanged = 64;
constexpr int kSystemThreads = 2;

unsigned chosen_order = 0;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel: %s\n", what);
  std::abort();
}

enum class State { ready, at_warp, at_block, done };

struct Copy {
  void* to;
  const void* from;
  bool inside;
};

// A thread of the emulated block: entered by a context of its own, then switched by jumps, which cost no system call.
struct Fibre {
  Place place;
  State state;
  bool entered;
  const char* operation;
  int exchanges;
  jmp_buf jump;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

struct Slots {
  alignas(16) unsigned char bytes[2][kWarp * kMostExchanged];
};

// One block at a time.
class Machine {
 public:
  void run(dim3 grid, dim3 size, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    const int count = static_cast<int>(size.x * size.y * size.z);
    while (static_cast<int>(fibres_.size()) < count) fibres_.push_back(std::make_unique<Fibre>());
    warps_.resize((count + kWarp - 1) / kWarp);
    shared_.assign(shared_bytes + 128, 0xff);
    for (int i = 0; i < count; ++i) {
      Fibre& fibre = *fibres_[i];
      const auto n = static_cast<unsigned>(i);
      fibre.place = {{n % size.x, n / size.x % size.y, n / (size.x * size.y)}, block, size, grid, i % kWarp};
      fibre.state = State::ready;
      fibre.entered = false;
      fibre.exchanges = 0;
    }
    order_.resize(count);
    for (int i = 0; i < count; ++i) order_[i] = chosen_order == 1 ? count - 1 - i : i;
    std::minstd_rand random(chosen_order + block.x);
    for (int live = count; live > 0;) {
      if (chosen_order > 1) {
        for (int i = count - 1; i > 0; --i) std::swap(order_[i], order_[random() % (i + 1)]);
      }
      for (int i : order_) {
        if (fibres_[i]->state == State::ready) resume(*fibres_[i]);
        live -= fibres_[i]->state == State::done && std::exchange(fibres_[i]->operation, nullptr) != nullptr;
      }
      if (live > 0) release(count);
    }
  }

  void wait(State state, const char* operation) {
    current_->state = state;
    current_->operation = operation;
    if (_setjmp(current_->jump) == 0) _longjmp(scheduler_, 1);
  }

  Fibre& current() { return *current_; }
  Slots& slots() { return warps_[index() / kWarp]; }
  unsigned char* shared() { return shared_.data() + (128 - reinterpret_cast<uintptr_t>(shared_.data()) % 128) % 128; }

 private:
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

  // Lets those go on whom all that they wait for have reached.
  void release(int count) {
    bool any = false, all_at_block = true;
    for (int first = 0; first < count; first += kWarp) {
      const int last = std::min(first + kWarp, count);
      bool together = true;
      const char* operation = fibres_[first]->operation;
      for (int i = first; i < last; ++i) {
        const Fibre& fibre = *fibres_[i];
        together = together && fibre.state == State::at_warp;
        if (together && std::strcmp(fibre.operation, operation) != 0) fail("lanes of a warp are in different operations");
        all_at_block = all_at_block && (fibre.state == State::at_block || fibre.state == State::done);
      }
      for (int i = first; together && i < last; ++i) fibres_[i]->state = State::ready;
      any = any || together;
    }
    if (any) return;
    if (!all_at_block) fail("threads of a block wait for one another at different places");
    for (int i = 0; i < count; ++i) {
      if (fibres_[i]->state == State::at_block) fibres_[i]->state = State::ready;
    }
  }

  const std::function<void()>* kernel_ = nullptr;
  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::vector<Slots> warps_;
  std::vector<unsigned char> shared_;
  std::vector<int> order_;
  Fibre* current_ = nullptr;
  jmp_buf scheduler_;
};

thread_local Machine machine;

}  // namespace

const Place& place() { return machine.current().place; }

unsigned char* dynamic_shared() { return machine.shared(); }

void set_order(unsigned order) { chosen_order = order; }

Card& card() {
  static Card described{3, 256 << 10, 99 << 10};
  return described;
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  const int64_t blocks = int64_t{grid.x} * grid.y * grid.z;
  std::vector<int64_t> order(blocks);
  for (int64_t i = 0; i < blocks; ++i) order[i] = chosen_order == 1 ? blocks - 1 - i : i;
  std::minstd_rand random(chosen_order);
  for (int64_t i = blocks - 1; i > 0 && chosen_order > 1; --i) std::swap(order[i], order[random() % (i + 1)]);
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i; (i = next.fetch_add(1)) < blocks;) {
      const auto at = static_cast<uint64_t>(order[i]);
      const dim3 index(static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                       static_cast<unsigned>(at / grid.x / grid.y));
      machine.run(grid, block, index, shared_bytes, kernel);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kSystemThreads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
}

void wait_for_block() { machine.wait(State::at_block, "block barrier"); }

const void* exchange(const void* mine, size_t bytes, const char* operation) {
  if (bytes > kMostExchanged) fail("a warp exchanges more than its slots hold");
  Fibre& fibre = machine.current();
  // Two sets of slots in turn: the next exchange of a fast lane leaves those of this one for the slow lanes.
  unsigned char* const slots = machine.slots().bytes[fibre.exchanges++ % 2];
  std::memcpy(slots + fibre.place.lane * bytes, mine, bytes);
  machine.wait(State::at_warp, operation);
  return slots;
}

void copy_async(void* to, const void* from, bool inside) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) fail("a copy is not aligned");
  std::memset(to, 0xff, 16);
  machine.current().open.push_back({to, from, inside});
}

void commit_copies() {
  Fibre& fibre = machine.current();
  fibre.groups.push_back(std::move(fibre.open));
  fibre.open.clear();
}

void wait_for_copies(int left) {
  auto& groups = machine.current().groups;
  for (; static_cast<int>(groups.size()) > left; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      if (copy.inside) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
  }
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) void emulator_set_order(unsigned order) { emulator::set_order(order); }

extern "C" __attribute__((visibility("default"))) void emulator_set_card(int multiprocessors, int l2_bytes) {
  emulator::card().multiprocessors = multiprocessors;
  emulator::card().l2_bytes = l2_bytes;
}
