#include "common/scratch.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>

#include "common/huge_pages.h"

namespace longreel {

Scratch::Scratch(int64_t bytes) : data_(nullptr) {
  if (bytes == 0) return;
  const auto size = (static_cast<size_t>(bytes) + 63) / 64 * 64;
  data_ = static_cast<std::byte*>(std::aligned_alloc(64, size));
  if (data_ == nullptr) throw std::bad_alloc();
  prefer_huge_pages(data_, static_cast<int64_t>(size));
  const char* poison = std::getenv("LONGREEL_POISON");
  if (poison != nullptr && std::string_view(poison) == "1") std::memset(data_, 0xff, size);
}

Scratch::~Scratch() { std::free(data_); }

}  // namespace longreel
