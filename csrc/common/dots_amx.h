// Scores of bf16 rows by AMX tiles: tokens on the long side, sixteen tokens x sixteen queries x 32 channels an instruction.
#pragma once

#include <immintrin.h>

#include "common/dots.h"
#include "common/numbers.h"

namespace longreel {
namespace {

// Compilers are not told what the tile instructions read: what was written before this call stays before it.
inline void writes_before_tiles() { __asm__ volatile("" ::: "memory"); }

// Sizes of the eight tile registers, as the configuration instruction reads them.
struct alignas(64) TileSizes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tile registers, by default all of them full, for the life of the object.
class TileSession {
 public:
  explicit TileSession(const TileSizes& sizes = TileSizes()) {
    writes_before_tiles();
    _tile_loadconfig(&sizes);
  }
  ~TileSession() { _tile_release(); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

// The same packed form as StepBf16Pairs: sixteen steps of a panel are one tile.
struct DotsAmx {
  using Row = bf16;
  using Packed = uint32_t;
  static constexpr int64_t pair = 2;
  static constexpr int64_t multiple = 32;
  static constexpr int64_t rows_multiple = 32;
  static constexpr int64_t tile = 32;

  using Session = TileSession;

  static void run(const bf16* x, int64_t x_row, int64_t n, const uint32_t* q, int64_t panels, int64_t channels, float* s,
                  int64_t s_row, const Ahead& next = {}) {
    for (int64_t p = 0; p < panels; p += 2) {
      for (int64_t i = 0; i < n; i += 32) {
        const bf16* rows = x + i * x_row;
        const uint32_t* queries = q + p * channels * 8;
        float* scores = s + i * s_row + p * 16;
        const Ahead ahead = p == 0 ? next.from(i) : Ahead{};
        if (p + 2 <= panels) {
          block<2>(rows, x_row, queries, channels, scores, s_row, ahead);
        } else {
          block<1>(rows, x_row, queries, channels, scores, s_row, ahead);
        }
      }
    }
  }

 private:
  // s [32, Panels * 16] = x [32, C] . q^T
  template <int Panels>
  static void block(const bf16* x, int64_t x_row, const uint32_t* q, int64_t channels, float* s, int64_t s_row,
                    const Ahead& ahead) {
    const int64_t x_bytes = x_row * 2, s_bytes = s_row * 4;
    const uint32_t* q1 = q + channels * 8;
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (Panels == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t c = 0; c < channels; c += 32) {
      _tile_loadd(4, x + c, x_bytes);
      _tile_loadd(5, x + 16 * x_row + c, x_bytes);
      _tile_loadd(6, q + c * 8, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      if constexpr (Panels == 2) {
        _tile_loadd(7, q1 + c * 8, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
      ahead.fetch<32>(c / 32);
    }
    _tile_stored(0, s, s_bytes);
    _tile_stored(1, s + 16 * s_row, s_bytes);
    if constexpr (Panels == 2) {
      _tile_stored(2, s + 16, s_bytes);
      _tile_stored(3, s + 16 * s_row + 16, s_bytes);
    }
  }
};

}  // namespace
}  // namespace longreel
