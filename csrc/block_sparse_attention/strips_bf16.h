// Products of bf16 strips: pairs by AVX512_BF16 or, in strips_amx.h, tiles.
#pragma once

#include "block_sparse_attention/strips_fp32.h"
#include "common/dots_bf16.h"
#include "common/simd.h"

namespace longreel {
namespace {

inline __m512i held(__m512i x) {
  asm("" : "+v"(x));
  return x;
}

// One step of a dot product along the channels: 32 bf16 products.
struct AlongBf16 {
  using Element = bf16;
  static constexpr int64_t width = 32;

  static __m512bh row(const bf16* x) { return reinterpret_cast<__m512bh>(held(_mm512_loadu_si512(x))); }
  static __m512bh read(const bf16* x) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(x)); }
  static Lanes fold(__m512bh a, __m512bh b, Lanes sum) { return {_mm512_dpbf16_ps(sum.v, a, b)}; }
};

// Channels 16 Half .. 16 Half + 15 of two keys as pairs
template <int Half>
inline __m512i pairs_of(__m512i even, __m512i odd) {
  struct Index {
    alignas(64) uint16_t at[32];
    constexpr Index() : at() {
      for (uint16_t i = 0; i < 16; ++i) {
        at[2 * i] = static_cast<uint16_t>(16 * Half + i);
        at[2 * i + 1] = static_cast<uint16_t>(32 + 16 * Half + i);
      }
    }
  };
  static constexpr Index index;
  return _mm512_permutex2var_epi16(even, _mm512_load_si512(index.at), odd);
}

// One step of a sum over keys: pairs of two keys, 32 channels of them become two registers.
struct OverBf16 {
  using Element = bf16;
  static constexpr int64_t keys = 2, registers = 2;

  static void read(const bf16* v, int64_t v_row, __m512bh* value) {
    const __m512i even = _mm512_loadu_si512(v), odd = _mm512_loadu_si512(v + v_row);
    value[0] = reinterpret_cast<__m512bh>(pairs_of<0>(even, odd));
    value[1] = reinterpret_cast<__m512bh>(pairs_of<1>(even, odd));
  }
  static __m512bh weight(const bf16* w) {
    return reinterpret_cast<__m512bh>(held(reinterpret_cast<__m512i>(StepBf16Pairs::pair_of(w))));
  }
  static Lanes fold(__m512bh w, __m512bh value, Lanes sum) { return {_mm512_dpbf16_ps(sum.v, w, value)}; }
};

struct StripsBf16 {
  using Pairs = NoPairs;
  using Element = bf16;
  using Unit = uint32_t;
  static constexpr int64_t pair = 2;
  static constexpr bool exact = false;
  static constexpr float per_e = kLog2E;

  // Weights below 2^-126 are zeros while it lives: making denormal numbers is slow.
  class Session {
   public:
    Session() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~Session() { _mm_setcsr(before_); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

   private:
    unsigned before_;
  };

  using Rows = StripsFp32::Rows;

  // 2^x within 1e-4, a twentieth of the rounding to bf16: 2^floor(x) times a cubic in the fraction.
  static Lanes power(Lanes x) {
    const Lanes fraction = {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
    Lanes p = fma(splat(0.07802452f), fraction, splat(0.22606716f));
    p = fma(p, fraction, splat(0.69583353f));
    p = fma(p, fraction, splat(0.99992522f));
    return {_mm512_scalef_ps(p.v, x.v)};
  }

  static void store_weights(bf16* to, Lanes x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v)));
  }

  // The same as the sum of two numbers, which keeps 16 bits: gradients of few rows have nothing to average the rounding over.
  static constexpr int64_t parts = 2;
  static void store_parts(bf16* to, int64_t apart, Lanes x) {
    store_weights(to, x);
    store_weights(to + apart, x - load(to));
  }

  // Rows [count, width], `row` elements apart, become the depth of width / 16 panels, two rows a unit; count is even, width a
  // multiple of 32. Rows `ahead` elements behind are fetched meanwhile, unless 0.
  static void rows_to_depth(const bf16* rows, int64_t row, int64_t width, int64_t count, Panels<uint32_t> panels,
                            int64_t ahead = 0) {
    for (int64_t k = 0; k < count; k += 2, rows += 2 * row) {
      for (int64_t c = 0; c < width; c += 32) {
        if (ahead != 0) __builtin_prefetch(rows + c + ahead, 0, 2);
        if (ahead != 0) __builtin_prefetch(rows + row + c + ahead, 0, 2);
        two_to_depth(rows + c, row, panels.from(c / 16, k / 2));
      }
    }
  }

  // 32 channels of two rows
  static void two_to_depth(const bf16* rows, int64_t row, Panels<uint32_t> panels) {
    const __m512i even = _mm512_loadu_si512(rows), odd = _mm512_loadu_si512(rows + row);
    _mm512_storeu_si512(panels.data, pairs_of<0>(even, odd));
    _mm512_storeu_si512(panels.data + panels.stride, pairs_of<1>(even, odd));
  }

  static constexpr int64_t few_rows = Tiles::few_rows;

  static void stage_few(bf16* /*queries*/, int64_t /*width*/) {}

  static void score_few(const bf16* queries, int64_t width, int64_t rows, const bf16* keys, int64_t key_row, int64_t ahead,
                        float* scores) {
    longreel::score_few<AlongBf16>(queries, width, rows, keys, key_row, ahead, scores);
  }

  static void sum_few(const bf16* weights, int64_t rows, const bf16* values, int64_t value_row, Span keys, int64_t width,
                      int64_t ahead, Panels<uint32_t> /*panels*/, float* acc) {
    longreel::sum_few<OverBf16>(weights + keys.begin, rows, values + keys.begin * value_row, value_row, keys.size(), width,
                                ahead, acc);
  }

  static void multiply(const bf16* x, int64_t x_row, int64_t rows, Panels<uint32_t> y, int64_t panels, int64_t depth,
                       float* out, int64_t out_row, bool add) {
    multiply_strip<StepBf16Pairs>(x, x_row, rows, y, panels, depth, out, out_row, add);
  }
};

}  // namespace
}  // namespace longreel
