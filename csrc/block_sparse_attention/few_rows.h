// Products of few query rows with keys and values where they stand: nothing is packed, since too few rows would share it.
#pragma once

#include "block_sparse_attention/scheduler.h"
#include "common/cpu_isa.h"
#include "common/simd.h"

namespace longreel {
namespace {

// Lines of 64 bytes of rows that are wanted next, fetched in the order they stand: as many with each step of a product as it
// reads, since a burst of them would stop it until memory has caught up.
class Lines {
 public:
  template <class T>
  Lines(const T* rows, int64_t row, int64_t width)
      : at_(reinterpret_cast<const char*>(rows)),
        // Rows that touch are one.
        width_((row == width ? kBlock : 1) * width * static_cast<int64_t>(sizeof(T))),
        row_(row * static_cast<int64_t>(sizeof(T))),
        end_(at_ + width_) {}

  template <int Count>
  [[gnu::always_inline]] void fetch() {
    nearest_ ? fetch_to<3, Count>() : fetch_to<2, Count>();
  }

 private:
  // Locality 3 is the nearest cache, 2 the second.
  template <int Locality, int Count>
  [[gnu::always_inline]] void fetch_to() {
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) {
      __builtin_prefetch(at_, 0, Locality);
      at_ += 64;
      if (at_ >= end_) {
        end_ += row_;
        at_ = end_ - width_;
      }
    }
  }

  const char* at_;
  int64_t width_, row_;  // bytes
  const char* end_;      // of the row
  bool nearest_ = fetch_to_nearest();
};

// f(R, first row) for tiles of R rows: as many of eight as there are, then what is left.
template <class F>
inline void in_row_tiles(int64_t rows, F f) {
  int64_t r = 0;
  for (; rows - r >= 8; r += 8) f(std::integral_constant<int, 8>{}, r);
  switch (rows - r) {
    case 7:
      return f(std::integral_constant<int, 7>{}, r);
    case 6:
      return f(std::integral_constant<int, 6>{}, r);
    case 5:
      return f(std::integral_constant<int, 5>{}, r);
    case 4:
      return f(std::integral_constant<int, 4>{}, r);
    case 3:
      return f(std::integral_constant<int, 3>{}, r);
    case 2:
      return f(std::integral_constant<int, 2>{}, r);
    case 1:
      return f(std::integral_constant<int, 1>{}, r);
  }
}

// The least power of two that is not below x <= 8.
constexpr int next_power(int x) { return x > 4 ? 8 : x > 2 ? 4 : x; }

// One step of a dot product along the channels: sixteen fp32 products.
struct AlongF32 {
  using Element = float;
  static constexpr int64_t width = 16;  // channels a step

  static Lanes read(const float* x) { return load(x); }
  static Lanes row(const float* x) { return held(load(x)); }
  static Lanes fold(Lanes a, Lanes b, Lanes sum) { return fma(a, b, sum); }
};

// s[r][j] = q_r . k_j of R rows and K keys, R K <= 16
template <class Along, int R, int K, int Fetched>
inline void score_tile(const typename Along::Element* q, int64_t width, const typename Along::Element* k, int64_t k_row,
                       Lines& next, float* s) {
  Lines lines = next;
  Lanes acc[16];
#pragma GCC unroll 16
  for (Lanes& sum : acc) sum = splat(0.0f);
  for (int64_t c = 0; c < width; c += Along::width) {
    decltype(Along::read(q)) key[K];
#pragma GCC unroll 16
    for (int j = 0; j < K; ++j) key[j] = Along::read(k + j * k_row + c);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto row = Along::row(q + r * width + c);
#pragma GCC unroll 16
      for (int j = 0; j < K; ++j) acc[r * K + j] = Along::fold(row, key[j], acc[r * K + j]);
    }
    lines.template fetch<Fetched>();
  }
  next = lines;
  float both[16];
  store(both, sums(acc));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) std::copy_n(both + r * K, K, s + r * kBlock);
}

// scores [rows, kBlock] = q k^T for a whole block; q [kStrip, width]. The rows `ahead` elements behind the keys are fetched
// meanwhile.
template <class Along>
inline void score_few(const typename Along::Element* q, int64_t width, int64_t rows, const typename Along::Element* k,
                      int64_t k_row, int64_t ahead, float* s) {
  Lines next(k + ahead, k_row, width);
  for (int64_t j = 0; j < kBlock; j += 16) {
    in_row_tiles(rows, [&](auto size, int64_t r) {
      constexpr int R = decltype(size)::value, K = 16 / next_power(R);
      for (int64_t at = j; at < j + 16; at += K) {
        const auto* keys = k + at * k_row;
        if (r == 0) {
          score_tile<Along, R, K, K>(q, width, keys, k_row, next, s + at);
        } else {
          score_tile<Along, R, K, 0>(q + r * width, width, keys, k_row, next, s + r * kBlock + at);
        }
      }
    });
  }
}

// One step of a sum over keys: one key, sixteen channels a register.
struct OverF32 {
  using Element = float;
  static constexpr int64_t keys = 1, registers = 1;  // of a step, and those that it makes of the values it reads

  static void read(const float* v, int64_t /*v_row*/, Lanes* value) { value[0] = load(v); }
  static Lanes weight(const float* w) { return held(splat(*w)); }
  static Lanes fold(Lanes w, Lanes value, Lanes sum) { return fma(w, value, sum); }
};

// acc [R, 16 V channels] += w v over `count` keys
template <class Over, int R, int V, int Fetched>
inline void sum_tile(const typename Over::Element* w, const typename Over::Element* v, int64_t v_row, int64_t count,
                     Lines& next, float* acc, int64_t acc_row) {
  constexpr int Reads = V / Over::registers;
  Lines lines = next;
  Lanes sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < V; ++c) sum[r][c] = splat(0.0f);
  }
  for (int64_t j = 0; j < count; j += Over::keys) {
    decltype(Over::weight(w)) value[V];
#pragma GCC unroll 8
    for (int c = 0; c < Reads; ++c) Over::read(v + j * v_row + c * 16 * Over::registers, v_row, value + c * Over::registers);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto weight = Over::weight(w + r * kBlock + j);
#pragma GCC unroll 8
      for (int c = 0; c < V; ++c) sum[r][c] = Over::fold(weight, value[c], sum[r][c]);
    }
    lines.template fetch<Fetched>();
  }
  next = lines;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < V; ++c) {
      float* at = acc + r * acc_row + c * 16;
      store(at, load(at) + sum[r][c]);
    }
  }
}

// acc [rows, width] += w v over `count` keys; rows of w are kBlock apart. The rows `ahead` elements behind the values
// are fetched meanwhile.
template <class Over>
inline void sum_few(const typename Over::Element* w, int64_t rows, const typename Over::Element* v, int64_t v_row,
                    int64_t count, int64_t width, int64_t ahead, float* acc) {
  Lines next(v + ahead, v_row, width);
  int64_t c = 0;
  const auto channels = [&](auto lanes) {
    constexpr int V = decltype(lanes)::value;
    for (; c + V * 16 <= width; c += V * 16) {
      in_row_tiles(rows, [&](auto size, int64_t r) {
        constexpr int R = decltype(size)::value;
        if constexpr (R * V <= 16) {
          if (r == 0) {
            sum_tile<Over, R, V, V>(w, v + c, v_row, count, next, acc + c, width);
          } else {
            sum_tile<Over, R, V, 0>(w + r * kBlock, v + c, v_row, count, next, acc + r * width + c, width);
          }
        }
      });
    }
  };
  constexpr int Least = Over::registers;
  if (rows <= 2) channels(std::integral_constant<int, 8>{});
  if (rows <= 4) channels(std::integral_constant<int, 4>{});
  if constexpr (Least < 2) {
    channels(std::integral_constant<int, 2>{});
  }
  channels(std::integral_constant<int, Least>{});
}

}  // namespace
}  // namespace longreel
