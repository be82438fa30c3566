// The two products of the backward pass with ds [tokens, columns], on AMX tiles.
#pragma once

#include <immintrin.h>

#include "common/frame_rows.h"
#include "common/simd.h"

namespace longreel {
namespace {

// ds enters as the sum of two bf16 numbers, which keeps 16 bits of it; queries and patches are bf16 already.
class AmxProducts {
 public:
  static constexpr int64_t tokens = 32;  // rows that token_rows() makes at once

  AmxProducts(int64_t longest, int64_t columns, int64_t channels, Arena& arena)
      : channels_(channels),
        padded_(round_up(channels, 16)),
        most_columns_(round_up(columns, 32)),
        most_tokens_(round_up(longest, 32)) {
    for (Split* split : {&ds_, &ds_t_}) {
      split->high = arena.take<bf16>(most_columns_ * most_tokens_);
      split->low = arena.take<bf16>(most_columns_ * most_tokens_);
    }
    queries_ = arena.take<uint32_t>(padded_ * most_columns_ / 2);
    patches_ = arena.take<uint32_t>(2 * kTile * most_tokens_ / 32);
  }

  // queries: one fp32 row [C] for each column, zero where a column is padding
  void set_queries(const float* const* queries, int64_t columns) {
    columns_ = columns;
    columns32_ = round_up(columns, 32);
    for (int64_t c = 0; c < padded_; ++c) {
      for (int64_t m = 0; m < columns32_; m += 2) {
        const auto bits = [&](int64_t i) {
          return i < columns && c < channels_ ? uint32_t{from_float<bf16>(queries[i][c]).bits} : 0u;
        };
        query_tile(c / 16, m / 32)[m % 32 / 2 * 16 + c % 16] = bits(m) | bits(m + 1) << 16;
      }
    }
  }

  void set_ds(const float* ds, int64_t count) {
    tokens32_ = round_up(count, 32);
    for (int64_t n = 0; n < tokens32_; ++n) {
      for (int64_t m = 0; m < columns32_; m += 16) {
        const Lanes exact = n < count && m < columns_ ? load(ds + n * columns_ + m) : splat(0.0f);
        bf16* high = ds_.high + n * columns32_ + m;
        bf16* low = ds_.low + n * columns32_ + m;
        store(high, exact);
        store(low, exact - load(high));
        for (int64_t i = 0; i < 16; ++i) {
          ds_t_.high[(m + i) * tokens32_ + n] = high[i];
          ds_t_.low[(m + i) * tokens32_ + n] = low[i];
        }
      }
    }
  }

  // out [columns, C padded] += ds^T x
  void add_query_sums(const FrameRows<bf16>& x, float* out) {
    for (int64_t c = 0; c < padded_; c += 32) {
      const bool two = c + 16 < padded_;
      pack_patches(x, c);
      for (int64_t m = 0; m < columns_; m += 32) {
        const Block block{out + m * padded_ + c, padded_, m + 16 < columns_, two};
        block.load();
        for (int64_t n = 0; n < tokens32_; n += 32) {
          const uint32_t* tiles = patches_ + n / 32 * 2 * kTile;
          block.multiply(ds_t_, m * tokens32_ + n, tokens32_, tiles, tiles + kTile);
        }
        block.store();
      }
    }
  }

  // out [32, C padded] = ds q for the tokens from n on, a multiple of 32
  void token_rows(int64_t n, int64_t /*count*/, float* out) {
    for (int64_t c = 0; c < padded_; c += 32) {
      const Block block{out + c, padded_, true, c + 16 < padded_};
      block.zero();
      for (int64_t m = 0; m < columns32_; m += 32) {
        block.multiply(ds_, n * columns32_ + m, columns32_, query_tile(c / 16, m / 32), query_tile(c / 16 + 1, m / 32));
      }
      block.store();
    }
  }

 private:
  static constexpr int64_t kTile = 256;  // words in a tile

  struct Split {
    bf16* high;
    bf16* low;
  };

  // 32 x 32 outputs in tiles 0 .. 3; the second row or column of tiles may be absent.
  struct Block {
    float* out;
    int64_t row;
    bool two_rows, two_columns;

    void zero() const {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    void load() const {
      _tile_loadd(0, out, row * 4);
      if (two_columns) _tile_loadd(1, out + 16, row * 4);
      if (two_rows) _tile_loadd(2, out + 16 * row, row * 4);
      if (two_rows && two_columns) _tile_loadd(3, out + 16 * row + 16, row * 4);
    }
    void store() const {
      _tile_stored(0, out, row * 4);
      if (two_columns) _tile_stored(1, out + 16, row * 4);
      if (two_rows) _tile_stored(2, out + 16 * row, row * 4);
      if (two_rows && two_columns) _tile_stored(3, out + 16 * row + 16, row * 4);
    }
    // += a [32, 32] b [32, 32], b as two tiles of pairs
    void multiply(const Split& a, int64_t at, int64_t a_row, const uint32_t* left, const uint32_t* right) const {
      _tile_loadd(6, left, 64);
      if (two_columns) _tile_loadd(7, right, 64);
      for (const bf16* part : {a.high + at, a.low + at}) {
        _tile_loadd(4, part, a_row * 2);
        _tile_dpbf16ps(0, 4, 6);
        if (two_columns) _tile_dpbf16ps(1, 4, 7);
        if (!two_rows) continue;
        _tile_loadd(5, part + 16 * a_row, a_row * 2);
        _tile_dpbf16ps(2, 5, 6);
        if (two_columns) _tile_dpbf16ps(3, 5, 7);
      }
    }
  };

  uint32_t* query_tile(int64_t channel_tile, int64_t column_pair) {
    return queries_ + (channel_tile * (columns32_ / 32) + column_pair) * kTile;
  }

  // Channels c .. c + 31 of every token, as pairs of tokens: two tiles for each 32 tokens.
  void pack_patches(const FrameRows<bf16>& x, int64_t c) {
    const __mmask32 inside = channels_ - c >= 32 ? ~0u : (1u << (channels_ - c)) - 1;
    const auto row = [&](int64_t n) {
      return n < x.count ? _mm512_maskz_loadu_epi16(inside, x[n] + c) : _mm512_setzero_si512();
    };
    alignas(64) uint16_t left[32], right[32];
    for (uint16_t i = 0; i < 16; ++i) {
      left[2 * i] = i;
      left[2 * i + 1] = 32 + i;
      right[2 * i] = 16 + i;
      right[2 * i + 1] = 48 + i;
    }
    const __m512i take_left = _mm512_load_si512(left), take_right = _mm512_load_si512(right);
    for (int64_t n = 0; n < tokens32_; n += 2) {
      uint32_t* to = patches_ + n / 32 * 2 * kTile + n % 32 / 2 * 16;
      const __m512i even = row(n), odd = row(n + 1);
      _mm512_store_si512(to, _mm512_permutex2var_epi16(even, take_left, odd));
      _mm512_store_si512(to + kTile, _mm512_permutex2var_epi16(even, take_right, odd));
    }
  }

  int64_t channels_, padded_, most_columns_, most_tokens_;
  int64_t columns_ = 0, columns32_ = 0, tokens32_ = 0;
  Split ds_, ds_t_;    // [tokens, columns] and [columns, tokens]
  uint32_t* queries_;  // [C / 16][columns / 32] tiles of column pairs
  uint32_t* patches_;  // [tokens / 32][2] tiles of token pairs
};

}  // namespace
}  // namespace longreel
