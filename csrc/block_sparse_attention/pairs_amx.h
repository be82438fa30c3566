// Two strips at a time on AMX tiles, 32 rows x 32 keys an accumulation: while weights are made of one block's scores, the next
// block's scores and the last one's sums are multiplied, in one stream of instructions.
//
// Weights are made as integers, 32 at once: with u = 512 (x + 127) for 2^x, bits 9 .. 15 are a bf16's exponent and 0 .. 8 a
// fraction f, and u / 4 would be the bits of 2^floor(x) (1 + f). What 1 + f lacks to 2^f is f (1 - f) times a line.
#pragma once

#include "block_sparse_attention/key_block.h"
#include "block_sparse_attention/strips_amx.h"

namespace longreel {
namespace {

class PairsAmx {
 public:
  static constexpr bool there = true;

  // One or two states meet a packed block.
  struct Step {
    int64_t state, strips;
    int64_t block;    // of those packed together
    Span keys;        // from the block's first, in multiples of 32
    bool full, tame;  // all rows attend to all keys; no score is beyond what integers hold
  };

  static constexpr int64_t kPair = 2 * kStrip;
  // Weights are at most 2^-16 of what they may become before the bound of a row must be raised.
  static constexpr float kRoom = 16.0f;

  struct States {
    const bf16* queries;  // [states, kStrip, width]
    float *acc, *l, *m;   // [.., width], [.., 16], [..]
    int64_t width, channels;
    float scale;
  };

  PairsAmx(Arena& arena, int64_t /*states*/) : ones_(arena.take<uint32_t>(256)) {
    for (float*& scores : scores_) scores = arena.take<float>(kPair * kBlock);
    for (bf16*& weights : weights_) weights = arena.take<bf16>(kPair * kBlock);
  }

  // Values as depth, in the order that weights are packed in.
  static void values_to_depth(const bf16* rows, int64_t row, int64_t width, Panels<uint32_t> panels, int64_t ahead) {
    for (int64_t k = 0; k < kBlock / 2; ++k, rows += 2 * row) {
      const int64_t t = k % 16, place = k - t + t % 8 / 2 * 4 + t / 8 * 2 + t % 2;
      for (int64_t c = 0; c < width; c += 32) {
        if (ahead != 0) __builtin_prefetch(rows + c + ahead, 0, 2);
        if (ahead != 0) __builtin_prefetch(rows + row + c + ahead, 0, 2);
        StripsBf16::two_to_depth(rows + c, row, panels.from(c / 16, place));
      }
    }
  }

  // The largest magnitude of so many rows; what is no number is larger than all of them.
  static float largest(const bf16* rows, int64_t row, int64_t count, int64_t width) {
    __m512i most = _mm512_setzero_si512();
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < width; c += 32) {
        const __m512i bits = _mm512_loadu_si512(rows + r * row + c);
        most = _mm512_max_epu16(most, _mm512_and_si512(bits, _mm512_set1_epi16(0x7fff)));
      }
    }
    const __m512i both = _mm512_max_epu32(_mm512_slli_epi32(most, 16), _mm512_and_si512(most, _mm512_set1_epi32(~0xffff)));
    return float_of_bits(_mm512_reduce_max_epu32(both));
  }

  // Whether scores of such rows and keys stay within what the integers hold.
  static bool tame(float scale, int64_t channels, float queries, float keys) {
    return scale * static_cast<float>(channels) * queries * keys < 0x1p20f;
  }

  // keys and values: of the blocks packed together; rows(state): of a state; visible(step, row): what row `row` of the step attends to, from
  // the block's first key.
  template <class Rows, class Visible>
  void run(const States& states, const Step* steps, int64_t count, Panels<uint32_t> keys, Panels<uint32_t> values,
           int64_t block_units, const Rows& rows, const Visible& visible) {
    const TileSizes whole, before = strip_tiles(kStrip);
    for (int64_t k = 0; k < 256; ++k) ones_[k] = k % 16 == 0 ? 0x3f803f80u : 0u;
    writes_before_tiles();
    _tile_loadconfig(&whole);
    const auto keys_of = [&](const Step& step) { return Panels<uint32_t>{keys.data + step.block * block_units, keys.stride}; };
    const auto values_of = [&](const Step& step) {
      return Panels<uint32_t>{values.data + step.block * block_units, values.stride};
    };
    Weigher<true, Visible> none(states, visible);
    if (count > 0) score(states, steps[0], keys_of(steps[0]), scores_[0], none);
    for (int64_t e = 0; e <= count; ++e) {
      const auto products = [&](auto& weigher) {
        if (e + 1 < count) score(states, steps[e + 1], keys_of(steps[e + 1]), scores_[(e + 1) % 2], weigher);
        if (e > 0) sum(states, steps[e - 1], values_of(steps[e - 1]), weights_[(e + 1) % 2], weigher);
      };
      if (e == count) {
        products(none);
        break;
      }
      const Step& step = steps[e];
      const int64_t rows_first = rows(step.state), rows_all = step.strips == 2 ? kStrip + rows(step.state + 1) : rows_first;
      const auto weigh = [&](auto& weigher) {
        weigher.start(
            step, rows_first, rows_all, scores_[e % 2], weights_[e % 2],
            (e + 1 < count ? chunks_of_scores(states, steps[e + 1]) : 0) + (e > 0 ? chunks_of_sums(states, steps[e - 1]) : 0));
        products(weigher);
        weigher.rest();
        return weigher.within();
      };
      bool done = false;
      if (!step.tame) {
        products(none);
      } else if (step.full) {
        Weigher<true, Visible> weigher(states, visible);
        done = weigh(weigher);
      } else {
        Weigher<false, Visible> weigher(states, visible);
        done = weigh(weigher);
      }
      if (!done) {
        for (int64_t r = 0; r < rows_all; ++r) {
          if (r >= rows_first && r < kStrip) continue;
          weigh_again(states, step, r, step.full ? step.keys : visible(step, r), scores_[e % 2] + r * kBlock,
                      weights_[e % 2] + r * kBlock);
        }
      }
    }
    writes_before_tiles();
    _tile_loadconfig(&before);
  }

 private:
  static int64_t chunks_of_scores(const States& states, const Step& step) {
    return step.keys.size() / 32 * (states.width / 32);
  }
  static int64_t chunks_of_sums(const States& states, const Step& step) {
    return step.keys.size() / 32 * (ceil_div(states.channels, 16) / 2 + 1);
  }

  // Makes the weights of a step's rows a few at a time.
  template <bool Full, class Visible>
  class Weigher {
   public:
    Weigher(const States& states, const Visible& visible) : states_(states), visible_(visible) {}

    // So many products are under way meanwhile.
    void start(const Step& step, int64_t rows_first, int64_t rows, const float* scores, bf16* weights, int64_t chunks) {
      step_ = &step;
      rows_first_ = rows_first;
      rows_ = rows;
      each_ = chunks == 0 ? rows : ceil_div(rows, chunks);
      scores_ = scores;
      weights_ = weights;
      keys_ = step.keys;
      scale_ = _mm512_set1_ps(512.0f * states_.scale);
      float* const m = states_.m + step.state * kStrip;
      for (int64_t r = 0; r < rows; r += 16) {
        const __m512 infinite = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
        if (_mm512_cmp_ps_mask(_mm512_loadu_ps(m + r), infinite, _CMP_EQ_OQ) != 0) first_bounds(m, r, std::min(rows, r + 16));
        // 0.75 takes off what rounding down adds up to.
        const __m512 from = _mm512_set1_ps(512.0f * 127.0f + 0.75f);
        _mm512_store_ps(offsets_ + r, _mm512_fnmadd_ps(_mm512_set1_ps(512.0f), _mm512_loadu_ps(m + r), from));
      }
    }
    // One of the products that the step's rows are spread over is under way.
    LONGREEL_INLINE void next() { rows_to(row_ + each_ < rows_ ? row_ + each_ : rows_); }
    void rest() { rows_to(rows_); }
    // No score stands out of its row's bound.
    bool within() const { return _mm512_cmpgt_epu16_mask(most_, _mm512_set1_epi16(static_cast<int16_t>(127 << 9))) == 0; }

   private:
    // Bounds of rows that meet their first keys.
    __attribute__((noinline)) void first_bounds(float* m, int64_t begin, int64_t end) const {
      for (int64_t r = begin; r < end; ++r) {
        if (m[r] != -std::numeric_limits<float>::infinity() || (r >= rows_first_ && r < kStrip)) continue;
        const Span own = Full ? keys_ : visible_(*step_, r).common(keys_);
        if (!own.empty()) m[r] = states_.scale * scores_[r * kBlock + own.begin] + kRoom;
      }
    }

    LONGREEL_INLINE void rows_to(int64_t end) {
      __m512i most = most_;
      const __m512 scale = scale_;
      const Span keys = keys_;
      for (int64_t r = row_; r < end; ++r) {
        const float* s = scores_ + r * kBlock;
        bf16* weights = weights_ + r * kBlock;
        const __m512 offset = _mm512_set1_ps(offsets_[r]);
        if constexpr (Full) {
          if (keys.size() == kBlock) {
            weights_of(s, scale, offset, ~0u, most, weights);
            weights_of(s + 32, scale, offset, ~0u, most, weights + 32);
          } else {
            weights_of(s + keys.begin, scale, offset, ~0u, most, weights + keys.begin);
          }
        } else {
          if (r >= rows_first_ && r < kStrip) continue;
          const Span visible = visible_(*step_, r).common(keys);
          const uint64_t mask = visible.empty() ? 0
                                                : (visible.size() == 64 ? ~uint64_t{0} : (uint64_t{1} << visible.size()) - 1)
                                                      << visible.begin;
          for (int64_t j = keys.begin; j < keys.end; j += 32)
            weights_of(s + j, scale, offset, static_cast<uint32_t>(mask >> j), most, weights + j);
        }
      }
      row_ = end;
      most_ = most;
    }

    LONGREEL_INLINE static void weights_of(const float* s, __m512 scale, __m512 offset, uint32_t mask, __m512i& most,
                                           bf16* weights) {
      const __m512 a = _mm512_fmadd_ps(_mm512_load_ps(s), scale, offset),
                   b = _mm512_fmadd_ps(_mm512_load_ps(s + 16), scale, offset);
      const __m512i u = Full ? _mm512_packus_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b))
                             : _mm512_packus_epi32(_mm512_maskz_cvtps_epi32(static_cast<__mmask16>(mask), a),
                                                   _mm512_maskz_cvtps_epi32(static_cast<__mmask16>(mask >> 16), b));
      most = _mm512_max_epu16(most, u);
      const __m512i f = _mm512_slli_epi16(u, 7);
      const __m512i bow = _mm512_mulhi_epu16(f, _mm512_xor_si512(f, _mm512_set1_epi16(-1)));
      const __m512i line = _mm512_add_epi16(_mm512_mulhi_epu16(f, _mm512_set1_epi16(46)), _mm512_set1_epi16(152));
      _mm512_store_si512(weights, _mm512_srli_epi16(_mm512_sub_epi16(u, _mm512_mulhi_epu16(bow, line)), 2));
    }

    const States& states_;
    const Visible& visible_;
    const Step* step_ = nullptr;
    const float* scores_ = nullptr;
    bf16* weights_ = nullptr;
    int64_t rows_first_ = 0, rows_ = 0, row_ = 0, each_ = 0;
    Span keys_;
    __m512 scale_;
    __m512i most_ = _mm512_setzero_si512();
    alignas(64) float offsets_[kPair];
  };

  // Weights of a row from its largest score, whatever that is.
  static void weigh_again(const States& states, const Step& step, int64_t r, Span visible, const float* s, bf16* weights) {
    using P = StripsAmx;
    const int64_t at = step.state * kStrip + r;
    float& m = states.m[at];
    visible = visible.common(step.keys);
    const auto lane = [](int64_t x) { return x < 0 ? 0 : x > 16 ? 16 : x; };
    const auto masked = [&](int64_t j, Lanes x, float other) {
      return within(lane(visible.begin - j), lane(visible.end - j), x, other);
    };
    if (!visible.empty()) {
      Lanes best = splat(-std::numeric_limits<float>::infinity());
      for (int64_t j = step.keys.begin; j < step.keys.end; j += 16)
        best = max(best, masked(j, load(s + j), -std::numeric_limits<float>::infinity()));
      const float bound = states.scale * max_of(best) + kRoom;
      if (bound > m) {
        const Lanes alpha = P::power(splat(m - bound));
        for (int64_t c = 0; c < states.width; c += 16)
          store(states.acc + at * states.width + c, load(states.acc + at * states.width + c) * alpha);
        store(states.l + at * 16, load(states.l + at * 16) * alpha);
        m = bound;
      }
    }
    const auto weight = [&](int64_t j) {
      const Lanes x = masked(j, P::power(fma(splat(states.scale), load(s + j), splat(-m))), 0.0f);
      return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v)));
    };
    for (int64_t j = step.keys.begin; j < step.keys.end; j += 32)
      _mm512_storeu_si512(weights + j, _mm512_packus_epi32(weight(j), weight(j + 16)));
  }

  template <class W>
  static void score(const States& states, const Step& step, Panels<uint32_t> keys, float* scores, W& weigher) {
    if (step.strips == 2) {
      score<2>(states, step, keys, scores, weigher);
    } else {
      score<1>(states, step, keys, scores, weigher);
    }
  }

  // scores [S * 16, kBlock] = q k^T
  template <int S, class W>
  static void score(const States& states, const Step& step, Panels<uint32_t> keys, float* scores, W& weigher) {
    const int64_t width = states.width;
    const bf16* queries = states.queries + step.state * kStrip * width;
    for (int64_t j = step.keys.begin; j < step.keys.end; j += 32) {
      const uint32_t *left = keys.data + j / 16 * keys.stride, *right = left + keys.stride;
      _tile_zero(0);
      _tile_zero(1);
      if constexpr (S == 2) _tile_zero(2);
      if constexpr (S == 2) _tile_zero(3);
      for (int64_t c = 0; c < width; c += 32) {
        _tile_loadd(4, queries + c, width * 2);
        _tile_stream_loadd(6, left + c * 8, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, right + c * 8, 64);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (S == 2) {
          _tile_loadd(5, queries + kStrip * width + c, width * 2);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
        weigher.next();
      }
      _tile_stored(0, scores + j, kBlock * 4);
      _tile_stored(1, scores + j + 16, kBlock * 4);
      if constexpr (S == 2) _tile_stored(2, scores + kStrip * kBlock + j, kBlock * 4);
      if constexpr (S == 2) _tile_stored(3, scores + kStrip * kBlock + j + 16, kBlock * 4);
    }
    writes_before_tiles();
  }

  template <class W>
  void sum(const States& states, const Step& step, Panels<uint32_t> values, const bf16* weights, W& weigher) const {
    if (step.strips == 2) {
      sum<2>(states, step, values, weights, weigher);
    } else {
      sum<1>(states, step, values, weights, weigher);
    }
  }

  // acc += weights v, l += weights
  template <int S, class W>
  void sum(const States& states, const Step& step, Panels<uint32_t> values, const bf16* weights, W& weigher) const {
    const int64_t panels = ceil_div(states.channels, 16), row = states.width;
    float *acc = states.acc + step.state * kStrip * row, *l = states.l + step.state * kStrip * 16;
    writes_before_tiles();
    int64_t p = 0;
    for (; p + 2 <= panels; p += 2) {
      const uint32_t* left = values.data + p * values.stride + step.keys.begin * 8;
      sum_two<S>(states, step.keys, weights, left, left + values.stride, 256, acc + p * 16, acc + p * 16 + 16, row, weigher);
    }
    if (p < panels) {
      const uint32_t* left = values.data + p * values.stride + step.keys.begin * 8;
      sum_two<S>(states, step.keys, weights, left, ones_, 0, acc + p * 16, l, 16, weigher);
    } else {
      sum_ones<S>(step.keys, weights, l, weigher);
    }
    writes_before_tiles();
  }

  // Two panels; from 32 keys of the right one to the next it is `right_step` units.
  template <int S, class W>
  static void sum_two(const States& states, Span keys, const bf16* weights, const uint32_t* left_values,
                      const uint32_t* right_values, int64_t right_step, float* left, float* right, int64_t right_row,
                      W& weigher) {
    const int64_t left_row = states.width;
    _tile_loadd(0, left, left_row * 4);
    _tile_loadd(1, right, right_row * 4);
    if constexpr (S == 2) _tile_loadd(2, left + kStrip * left_row, left_row * 4);
    if constexpr (S == 2) _tile_loadd(3, right + kStrip * right_row, right_row * 4);
    for (int64_t j = keys.begin; j < keys.end; j += 32, left_values += 256, right_values += right_step) {
      _tile_loadd(4, weights + j, kBlock * 2);
      _tile_stream_loadd(6, left_values, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_stream_loadd(7, right_values, 64);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (S == 2) {
        _tile_loadd(5, weights + kStrip * kBlock + j, kBlock * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      weigher.next();
    }
    _tile_stored(0, left, left_row * 4);
    _tile_stored(1, right, right_row * 4);
    if constexpr (S == 2) _tile_stored(2, left + kStrip * left_row, left_row * 4);
    if constexpr (S == 2) _tile_stored(3, right + kStrip * right_row, right_row * 4);
  }

  template <int S, class W>
  void sum_ones(Span keys, const bf16* weights, float* l, W& weigher) const {
    _tile_loadd(0, l, 64);
    if constexpr (S == 2) _tile_loadd(1, l + kStrip * 16, 64);
    _tile_loadd(6, ones_, 64);
    for (int64_t j = keys.begin; j < keys.end; j += 32) {
      _tile_loadd(4, weights + j, kBlock * 2);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (S == 2) {
        _tile_loadd(5, weights + kStrip * kBlock + j, kBlock * 2);
        _tile_dpbf16ps(1, 5, 6);
      }
      weigher.next();
    }
    _tile_stored(0, l, 64);
    if constexpr (S == 2) _tile_stored(1, l + kStrip * 16, 64);
  }

  uint32_t* ones_;  // a tile of values: ones in the first column
  float* scores_[2];
  bf16* weights_[2];
};

struct PairedStripsAmx : StripsAmx {
  using Pairs = PairsAmx;
};

}  // namespace
}  // namespace longreel
