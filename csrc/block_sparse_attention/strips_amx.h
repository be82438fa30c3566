// Products of bf16 strips by AMX tiles: up to sixteen rows x sixteen columns x 32 of the depth an instruction.
#pragma once

#include "block_sparse_attention/strips_bf16.h"
#include "common/dots_amx.h"

namespace longreel {
namespace {

// Sums in tiles 0 .. 3, x in 4 and y in 5; x in 6 and y in 7 where sixteen of the depth are left. Only `rows` rows are computed.
constexpr TileSizes strip_tiles(int64_t rows) {
  TileSizes sizes;
  for (int tile : {0, 1, 2, 3, 4, 6}) sizes.rows[tile] = static_cast<uint8_t>(rows);
  sizes.row_bytes[6] = 32;
  sizes.rows[7] = 8;
  return sizes;
}

struct StripsAmx : StripsBf16 {
  class Session : StripsBf16::Session, TileSession {
   public:
    Session() : TileSession(strip_tiles(kStrip)) {}
  };

  class Rows {
   public:
    explicit Rows(int64_t rows) : resized_(rows < kStrip) {
      if (resized_) resize(rows);
    }
    ~Rows() {
      if (resized_) resize(kStrip);
    }
    Rows(const Rows&) = delete;
    Rows& operator=(const Rows&) = delete;

   private:
    static void resize(int64_t rows) {
      const TileSizes sizes = strip_tiles(rows);
      writes_before_tiles();
      _tile_loadconfig(&sizes);
    }

    bool resized_;
  };

  // Keys take the long side of the tiles, so that they need not become columns: the few queries do, once.
  static void stage_few(bf16* queries, int64_t width) {
    alignas(64) bf16 rows[kStrip * kMostHeadSize];
    std::copy_n(queries, kStrip * width, rows);
    transpose_sixteen(rows, width * 2, width / 2, queries);
  }

  // Of a block's 2 width lines, half are fetched beside the products and half beside what follows: all of them beside the
  // products would be asked for faster than they come.
  static void score_few(const bf16* queries, int64_t width, int64_t /*rows*/, const bf16* keys, int64_t key_row, int64_t ahead,
                        float* scores) {
    alignas(64) float columns[kBlock * kStrip];
    Lines next(keys + ahead, key_row, width);
    writes_before_tiles();
    for (int64_t j = 0; j < kBlock; j += 32) {
      const bf16* upper = keys + j * key_row;
      const bf16* lower = upper + 16 * key_row;
      _tile_zero(0);
      _tile_zero(1);
      for (int64_t c = 0; c < width; c += 32) {
        _tile_loadd(5, queries + c * kStrip, 64);
        _tile_loadd(4, upper + c, key_row * 2);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(3, lower + c, key_row * 2);
        _tile_dpbf16ps(1, 3, 5);
        next.fetch<16>();
      }
      _tile_stored(0, columns + j * kStrip, 64);
      _tile_stored(1, columns + (j + 16) * kStrip, 64);
    }
    for (int64_t j = 0; j < kBlock; j += 16) {
      transpose_sixteen(columns + j * 16, 64, 16, scores + j, 0, kBlock * 4);
      for (int64_t c = 0; c < width; c += 32) next.fetch<8>();
    }
  }

  // Two panels of values at a time, which the nearest cache still has when they are multiplied.
  static void sum_few(const bf16* weights, int64_t /*rows*/, const bf16* values, int64_t value_row, Span keys, int64_t width,
                      int64_t ahead, Panels<uint32_t> panels, float* acc) {
    Lines next(values + ahead, value_row, width);
    for (int64_t c = 0; c < width; c += 32) {
      for (int64_t j = 0; j < kBlock; j += 2) {
        two_to_depth(values + j * value_row + c, value_row, panels.from(0, j / 2));
        next.fetch<2>();
      }
      writes_before_tiles();
      strip<2>(weights + keys.begin, kBlock, panels.from(0, keys.begin / 2), keys.size(), acc + c, width, true);
    }
  }

  static void multiply(const bf16* x, int64_t x_row, int64_t /*rows*/, Panels<uint32_t> y, int64_t panels, int64_t depth,
                       float* out, int64_t out_row, bool add) {
    writes_before_tiles();
    int64_t p = 0;
    for (; p + 4 <= panels; p += 4) strip<4>(x, x_row, y.from(p, 0), depth, out + p * 16, out_row, add);
    for (; p + 2 <= panels; p += 2) strip<2>(x, x_row, y.from(p, 0), depth, out + p * 16, out_row, add);
    if (p < panels) strip<1>(x, x_row, y.from(p, 0), depth, out + p * 16, out_row, add);
  }

 private:
  template <int P>
  static void strip(const bf16* x, int64_t x_row, Panels<uint32_t> y, int64_t depth, float* out, int64_t out_row, bool add) {
    const int64_t x_bytes = x_row * 2, out_bytes = out_row * 4;
    if (add) {
      _tile_loadd(0, out, out_bytes);
      if constexpr (P > 1) _tile_loadd(1, out + 16, out_bytes);
      if constexpr (P > 2) _tile_loadd(2, out + 32, out_bytes);
      if constexpr (P > 2) _tile_loadd(3, out + 48, out_bytes);
    } else {
      _tile_zero(0);
      if constexpr (P > 1) _tile_zero(1);
      if constexpr (P > 2) _tile_zero(2);
      if constexpr (P > 2) _tile_zero(3);
    }
    int64_t d = 0;
    for (; d + 32 <= depth; d += 32) {
      const uint32_t* at = y.data + d * 8;
      _tile_loadd(4, x + d, x_bytes);
      _tile_loadd(5, at, 64);
      _tile_dpbf16ps(0, 4, 5);
      if constexpr (P > 1) {
        _tile_loadd(5, at + y.stride, 64);
        _tile_dpbf16ps(1, 4, 5);
      }
      if constexpr (P > 2) {
        _tile_loadd(5, at + 2 * y.stride, 64);
        _tile_dpbf16ps(2, 4, 5);
        _tile_loadd(5, at + 3 * y.stride, 64);
        _tile_dpbf16ps(3, 4, 5);
      }
    }
    if (d < depth) {
      // The same with half the depth in tiles of their own: a tile's number is part of its instruction, no parameter.
      const uint32_t* at = y.data + d * 8;
      _tile_loadd(6, x + d, x_bytes);
      _tile_loadd(7, at, 64);
      _tile_dpbf16ps(0, 6, 7);
      if constexpr (P > 1) {
        _tile_loadd(7, at + y.stride, 64);
        _tile_dpbf16ps(1, 6, 7);
      }
      if constexpr (P > 2) {
        _tile_loadd(7, at + 2 * y.stride, 64);
        _tile_dpbf16ps(2, 6, 7);
        _tile_loadd(7, at + 3 * y.stride, 64);
        _tile_dpbf16ps(3, 6, 7);
      }
    }
    _tile_stored(0, out, out_bytes);
    if constexpr (P > 1) _tile_stored(1, out + 16, out_bytes);
    if constexpr (P > 2) _tile_stored(2, out + 32, out_bytes);
    if constexpr (P > 2) _tile_stored(3, out + 48, out_bytes);
  }
};

}  // namespace
}  // namespace longreel
