// Runs CUDA kernels as plain C++, to check them without a GPU: each thread of a block is a fibre, run until it waits for others.
// Blocks run on a few system threads at once, one block, or one cluster of blocks, on each. What the headers beside this one lack,
// no kernel uses yet. Variables that are __shared__ belong to the system thread: blocks of a cluster have dynamic memory alone.
//
// It shows wrong arithmetic and indices, barriers that threads of a block do not share, results that depend on the order of
// threads or blocks, and shared memory read before a copy into it was waited for (it is NaN until then), or never written
// (dynamic shared memory is NaN at first, and again when its block has left). What a copy engine brings is there when its arrival
// is waited for, and what stood in its place is gone when it starts. Threads that wait for one another for ever end the program.
// It does not show what the real memory model alone allows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

constexpr int kWarp = 32;

// What a kernel sees of itself.
struct Place {
  dim3 thread, block, block_size, grid_size;
  int lane;
  unsigned rank, cluster;  // this block among those of its cluster, and how many they are
};
const Place& place();
unsigned char* dynamic_shared();

// The order in which threads and blocks are run: 0 rising, 1 falling, else random from that seed. Of a cluster the first block
// goes on while it can: the others are as far behind as its barriers allow.
void set_order(unsigned order);
// The card that the CUDA runtime describes.
struct Card {
  int multiprocessors, l2_bytes;
  int shared_bytes, most_shared_bytes;  // of a multiprocessor, and what a block may have on the largest cards
};
Card& card();

// cluster: blocks that run together, side by side in x.
void run_grid(dim3 grid, dim3 block, unsigned cluster, size_t shared_bytes, const std::function<void()>& kernel);

void wait_for_block();

// Every lane of the warp hands in `bytes` bytes; returns those of all lanes, one after another.
const void* exchange(const void* mine, size_t bytes, const char* operation);

template <class T>
const T* exchange(const T& mine, const char* operation) {
  return static_cast<const T*>(exchange(&mine, sizeof(T), operation));
}

// Copies that arrive when they are waited for.
void copy_async(void* to, const void* from, bool inside);
void commit_copies();
void wait_for_copies(int left);

// Blocks of a cluster: the same place in another's shared memory, and their barrier.
uintptr_t in_block(uintptr_t own, unsigned rank);
void arrive_at_cluster();
void wait_for_cluster();

// A barrier of one arrival and of the bytes that it announces; copies that count towards those.
void init_arrival(void* arrival);
void announce_bytes(void* arrival, unsigned bytes);
void copy_row(void* to, const void* from, unsigned bytes, void* arrival);
void wait_for_arrival(void* arrival, unsigned parity);

}  // namespace emulator
