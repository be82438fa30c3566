// What a call of _host.so hands back, and how: python/longreel/_host_calls.py has the same struct.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

#define LONGREEL_HOST extern "C" __attribute__((visibility("default")))

namespace longreel::host {

enum Status : int32_t { kDone = 0, kRefused = 1, kNoMemory = 2 };

// Arrays of int32 stay the library's until longreel_release; `why` is empty unless the call was refused.
struct Answer {
  int32_t* data[3];
  int64_t size[3];
  int64_t number;
  char why[256];
};

template <class Struct>
void give(Answer* answer, int place, const std::vector<Struct>& structs) {
  static_assert(sizeof(Struct) % sizeof(int32_t) == 0);
  const size_t count = structs.size() * sizeof(Struct) / sizeof(int32_t);
  answer->data[place] = new int32_t[count];
  answer->size[place] = int64_t(count);
  if (count) std::memcpy(answer->data[place], structs.data(), count * sizeof(int32_t));
}

inline void release(Answer* answer) {
  for (int32_t*& data : answer->data) {
    delete[] data;
    data = nullptr;
  }
}

// Runs `work`; no exception leaves the library.
template <class Work>
int32_t answered(Answer* answer, Work&& work) {
  *answer = {};
  try {
    work();
    return kDone;
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (const std::length_error&) {
    return kNoMemory;
  } catch (const std::exception& error) {
    std::strncpy(answer->why, error.what(), sizeof(answer->why) - 1);
    return kRefused;
  }
}

}  // namespace longreel::host
