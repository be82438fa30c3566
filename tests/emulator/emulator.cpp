#include "machine.h"

#include <atomic>
#include <thread>

namespace emulator {
namespace {

constexpr int kSystemThreads = 2;

unsigned chosen_order = 0;

thread_local Machine machine;

}  // namespace

const Place& place() { return machine.current().place; }

unsigned char* dynamic_shared() { return machine.shared(); }

void set_order(unsigned order) { chosen_order = order; }

Card& card() {
  static Card described{3, 256 << 10, 99 << 10, 227 << 10};
  return described;
}

void run_grid(dim3 grid, dim3 block, unsigned cluster, size_t shared_bytes, const std::function<void()>& kernel) {
  const unsigned clusters = grid.x / cluster;
  const int64_t blocks = int64_t{clusters} * grid.y * grid.z;
  std::vector<int64_t> order(blocks);
  for (int64_t i = 0; i < blocks; ++i) order[i] = chosen_order == 1 ? blocks - 1 - i : i;
  std::minstd_rand random(chosen_order);
  for (int64_t i = blocks - 1; i > 0 && chosen_order > 1; --i) std::swap(order[i], order[random() % (i + 1)]);
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i; (i = next.fetch_add(1)) < blocks;) {
      const auto at = static_cast<uint64_t>(order[i]);
      const dim3 index(static_cast<unsigned>(at % clusters) * cluster, static_cast<unsigned>(at / clusters % grid.y),
                       static_cast<unsigned>(at / clusters / grid.y));
      machine.run(grid, block, index, cluster, shared_bytes, chosen_order, kernel);
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

uintptr_t in_block(uintptr_t own, unsigned rank) { return machine.in_block(own, rank); }

void arrive_at_cluster() { ++machine.current().arrivals; }

void wait_for_cluster() { machine.wait(State::at_cluster, "cluster barrier"); }

void init_arrival(void* arrival) { machine.init_arrival(arrival); }

void announce_bytes(void* arrival, unsigned bytes) {
  Expected& expected = machine.expected(arrival);
  if (expected.announced) fail("bytes are announced before those of the phase before have arrived");
  expected.announced = true;
  expected.bytes = bytes;
}

void copy_row(void* to, const void* from, unsigned bytes, void* arrival) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes % 16 != 0 ||
      bytes == 0) {
    fail("a copy is not aligned");
  }
  std::memset(to, 0xff, bytes);
  machine.expected(arrival).rows.push_back({to, from, bytes});
}

void wait_for_arrival(void* arrival, unsigned parity) {
  Fibre& fibre = machine.current();
  fibre.waits_for = &machine.expected(arrival);
  fibre.parity = parity;
  if (fibre.waits_for->phases % 2 == parity) machine.wait(State::at_arrival, "arrival");
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) void emulator_set_order(unsigned order) { emulator::set_order(order); }

extern "C" __attribute__((visibility("default"))) void emulator_set_card(int multiprocessors, int l2_bytes) {
  emulator::card().multiprocessors = multiprocessors;
  emulator::card().l2_bytes = l2_bytes;
}
