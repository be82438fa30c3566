// Products of few query rows with keys and values where they stand: nothing is packed, since too few rows would share it.
#pragma once

#include "block_sparse_attention/scheduler.h"
#include "common/simd.h"

namespace longreel {
namespace {

// One step of a dot product along the channels: sixteen fp32 products.
struct AlongF32 {
  using Element = float;
  static constexpr int64_t width = 16;  // channels a step

  static Lanes read(const float* x) { return load(x); }
  static Lanes fold(Lanes a, Lanes b, Lanes sum) { return fma(a, b, sum); }
};

// s[r][j] = q_r . k_j of R rows and K keys, R K = 16
template <class Along, int R>
inline void score_tile(const typename Along::Element* q, int64_t width, const typename Along::Element* k, int64_t k_row,
                       int64_t ahead, float* s) {
  constexpr int K = 16 / R;
  Lanes acc[16];
#pragma GCC unroll 16
  for (Lanes& sum : acc) sum = splat(0.0f);
  for (int64_t c = 0; c < width; c += Along::width) {
    decltype(Along::read(q)) row[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) row[r] = Along::read(q + r * width + c);
#pragma GCC unroll 16
    for (int j = 0; j < K; ++j) {
      if (ahead != 0) __builtin_prefetch(k + j * k_row + c + ahead, 0, 2);
      const auto key = Along::read(k + j * k_row + c);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[r * K + j] = Along::fold(row[r], key, acc[r * K + j]);
    }
  }
  float both[16];
  store(both, sums(acc));
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) std::copy_n(both + r * K, K, s + r * kBlock);
}

// scores [rows, kBlock] = q k^T for a whole block; q [kStrip, width]. What stands `ahead` elements behind is fetched meanwhile,
// unless 0. Scores of up to three rows behind the last are written too.
template <class Along>
inline void score_few(const typename Along::Element* q, int64_t width, int64_t rows, const typename Along::Element* k,
                      int64_t k_row, int64_t ahead, float* s) {
  for (int64_t j = 0; j < kBlock; j += 16) {
    int64_t r = 0, fetch = ahead;
    const auto tiles = [&](auto size) {
      constexpr int R = decltype(size)::value;
      for (int64_t at = 0; at < 16; at += 16 / R) {
        score_tile<Along, R>(q + r * width, width, k + (j + at) * k_row, k_row, fetch, s + r * kBlock + j + at);
      }
      r += R;
      fetch = 0;
    };
    while (rows - r > 2) tiles(std::integral_constant<int, 4>{});
    if (rows - r == 2) tiles(std::integral_constant<int, 2>{});
    if (rows - r == 1) tiles(std::integral_constant<int, 1>{});
  }
}

// acc [R, 16 V channels] += w v over `count` keys
template <int R, int V>
inline void sum_tile(const float* w, const float* v, int64_t v_row, int64_t count, int64_t ahead, float* acc, int64_t acc_row) {
  Lanes sum[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < V; ++c) sum[r][c] = splat(0.0f);
  }
  for (int64_t j = 0; j < count; ++j) {
    Lanes value[V];
#pragma GCC unroll 8
    for (int c = 0; c < V; ++c) {
      if (ahead != 0) __builtin_prefetch(v + j * v_row + c * 16 + ahead, 0, 2);
      value[c] = load(v + j * v_row + c * 16);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Lanes weight = splat(w[r * kBlock + j]);
#pragma GCC unroll 8
      for (int c = 0; c < V; ++c) sum[r][c] = fma(weight, value[c], sum[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < V; ++c) {
      float* at = acc + r * acc_row + c * 16;
      store(at, load(at) + sum[r][c]);
    }
  }
}

// acc [rows, width] += w v over `count` keys; rows of w are kBlock apart
inline void sum_few(const float* w, int64_t rows, const float* v, int64_t v_row, int64_t count, int64_t width, int64_t ahead,
                    float* acc) {
  int64_t c = 0;
  const auto channels = [&](auto most, auto lanes) {
    constexpr int R = decltype(most)::value, V = decltype(lanes)::value;
    for (; c + V * 16 <= width; c += V * 16) {
      int64_t r = 0, fetch = ahead;
      const auto tiles = [&](auto size) {
        constexpr int N = decltype(size)::value;
        for (; r + N <= rows; r += N, fetch = 0) {
          sum_tile<N, V>(w + r * kBlock, v + c, v_row, count, fetch, acc + r * width + c, width);
        }
      };
      tiles(most);
      if constexpr (R > 2) tiles(std::integral_constant<int, 2>{});
      if constexpr (R > 1) tiles(std::integral_constant<int, 1>{});
    }
  };
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  using Four = std::integral_constant<int, 4>;
  using Eight = std::integral_constant<int, 8>;
  if (rows < 4) channels(Two{}, Eight{});
  channels(Four{}, Four{});
  channels(Four{}, One{});
}

}  // namespace
}  // namespace longreel
