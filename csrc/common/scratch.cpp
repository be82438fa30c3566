#include "common/scratch.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>

namespace longreel {

void poison(void* data, int64_t bytes) {
  // What has no byte may have no address either.
  if (bytes == 0) return;
  const char* wanted = std::getenv("LONGREEL_POISON");
  if (wanted != nullptr && std::string_view(wanted) == "1") std::memset(data, 0xff, static_cast<size_t>(bytes));
}

Scratch::Scratch(int64_t bytes) : data_(nullptr) {
  if (bytes == 0) return;
  const auto size = (static_cast<size_t>(bytes) + 63) / 64 * 64;
  data_ = static_cast<std::byte*>(std::aligned_alloc(64, size));
  if (data_ == nullptr) throw std::bad_alloc();
  poison(data_, static_cast<int64_t>(size));
}

Scratch::~Scratch() { std::free(data_); }

}  // namespace longreel
