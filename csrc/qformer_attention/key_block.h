// A block of keys as the products read it, and how the keys are cut into blocks and splits.
#pragma once

#include "common/rows.h"
#include "common/scratch.h"
#include "qformer_attention/qformer_attention.h"

namespace longreel {
namespace {

// Every sample's keys in `splits` parts, the same for any number of threads; an item is one part of one sample.
struct KeySplits {
  static constexpr int64_t kItems = 16, kFewestKeys = 2048;

  int64_t batch, keys, splits;

  explicit KeySplits(const QFormerProblem& p) : batch(p.batch), keys(p.keys) {
    const int64_t wanted = ceil_div(kItems, std::max<int64_t>(1, batch));
    splits = std::clamp<int64_t>(std::min(wanted, keys / kFewestKeys), 1, kItems);
  }

  int64_t items() const { return batch * splits; }
  int64_t sample(int64_t item) const { return item / splits; }
  int64_t begin(int64_t split) const { return split == splits ? keys : split * keys / splits / 32 * 32; }
  int64_t longest() const {
    int64_t most = 0;
    for (int64_t s = 0; s < splits; ++s) most = std::max(most, begin(s + 1) - begin(s));
    return most;
  }
};

// Blocks of one split: as few as fit `most` keys, equally long.
inline int64_t block_length(int64_t keys, int64_t most) {
  return keys == 0 ? 0 : std::min(most, round_up(ceil_div(keys, ceil_div(keys, most)), 32));
}

// [count, C], padded to whole rows and channels of the products where it was copied
template <class Element>
struct KeyRows {
  const Element* data;
  int64_t stride, count, padded;
};

template <class T, class Products>
class KeyReader {
 public:
  using Element = typename Products::Element;

  KeyReader(const QFormerProblem& problem, int64_t longest, Arena& arena)
      : p_(problem), padded_(round_up(problem.channels, Products::multiple)) {
    in_place_ = std::is_same_v<T, Element> && p_.x_channel == 1 && p_.mask == nullptr && p_.table == nullptr &&
                (Products::rows_multiple == 1 || p_.channels % Products::multiple == 0);
    copy_ = arena.take<Element>(round_up(longest, Products::rows_multiple) * padded_);
  }

  KeyRows<Element> read(int64_t sample, int64_t begin, int64_t end) const {
    const int64_t count = end - begin, padded = round_up(count, Products::rows_multiple);
    const T* from = static_cast<const T*>(p_.x) + sample * p_.x_batch + begin * p_.x_key;
    if constexpr (std::is_same_v<T, Element>) {
      if (in_place_ && padded == count) return {from, p_.x_key, count, padded};
    }
    for (int64_t n = 0; n < count; ++n) {
      Element* to = copy_ + n * padded_;
      if (!visible(p_, sample, begin + n)) {
        std::fill_n(to, padded_, Element{});
        continue;
      }
      copy_row(from + n * p_.x_key, p_.x_channel, p_.channels, to, padded_);
      if (p_.table == nullptr) continue;
      const T* add = static_cast<const T*>(p_.table) + (begin + n) / p_.frame_size * p_.channels;
      for_lanes(p_.channels, [&](int64_t c, int64_t lanes, auto whole) {
        store(to + c, load(to + c, lanes, whole) + load(add + c, lanes, whole), lanes, whole);
      });
    }
    std::fill_n(copy_ + count * padded_, (padded - count) * padded_, Element{});
    return {copy_, padded_, count, padded};
  }

  static bool visible(const QFormerProblem& p, int64_t sample, int64_t key) {
    return p.mask == nullptr || p.mask[sample * p.mask_batch + key * p.mask_key];
  }

 private:
  const QFormerProblem& p_;
  int64_t padded_;
  bool in_place_;
  Element* copy_;
};

}  // namespace
}  // namespace longreel
