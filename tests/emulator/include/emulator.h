// Runs CUDA kernels as plain C++, to check them without a GPU: each thread of a block is a fibre, run until it waits for others.
// Blocks run on a few system threads at once, one block on each. What the headers beside this one lack, no kernel uses yet.
//
// It shows wrong arithmetic and indices, barriers that threads of a block do not share, results that depend on the order of
// threads or blocks, and shared memory read before a copy into it was waited for (it is NaN until then), or never written
// (dynamic shared memory is NaN at first). It does not show what the real memory model alone allows.
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
};
const Place& place();
unsigned char* dynamic_shared();

// The order in which threads and blocks are run: 0 rising, 1 falling, else random from that seed.
void set_order(unsigned order);
// The card that the CUDA runtime describes.
struct Card {
  int multiprocessors, l2_bytes, shared_bytes;
};
Card& card();

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);

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

}  // namespace emulator
