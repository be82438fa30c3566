// Faults, planted: `make sanitize` is to be believed only where it finds each of them.
#include <cstdint>
#include <memory>
#include <thread>

#define PLANTED extern "C" __attribute__((visibility("default"))) int64_t

PLANTED heap(int64_t index) { return std::make_unique<volatile char[]>(8)[static_cast<size_t>(index)]; }

PLANTED overflow(int64_t value) { return value * INT64_MAX; }

PLANTED cast(int64_t value) { return static_cast<int32_t>(static_cast<double>(value) * 1e12); }

PLANTED race(int64_t value) {
  int64_t sum = 0;
  const auto add = [&] { sum += value; };
  std::thread one(add), other(add);
  one.join();
  other.join();
  return sum;
}
