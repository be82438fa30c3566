// Forward on AMX tiles. Queries are the rows of the scores, so that nothing but the keys is transposed: once a block, for all heads.
#pragma once

#include "qformer_attention/forward_kernel.h"
#include "qformer_attention/queries_amx.h"

namespace longreel {
namespace {

// One worker's memory and its way through the keys of an item, as `QFormerSums`: all heads' weights of a block, then all their sums, so
// that one form of the keys at a time fills the cache.
template <class T, int Planes>
class TileSums {
 public:
  using Products = TileProducts<Planes>;
  using Queries = TileQueries<T, Planes>;
  using Weights = HeadWeights<T, Products>;
  static constexpr bool finishes = true;
  // Keys in one form stay in the second cache.
  static constexpr int64_t kBlock = Planes == 1 ? 320 : 96;

  static bool one_block(int64_t longest) { return longest <= kBlock; }

  TileSums(const QFormerProblem& p, int64_t longest, Arena& arena)
      : p_(p),
        padded_(round_up(p.channels, 32)),
        block_(block_length(longest, kBlock)),
        reader_(p, block_, arena),
        scores_(arena.take<float>(32 * block_)),
        alpha_(arena.take<float>(round_up(p.rows(), 32))),
        visible_(arena.take<__mmask16>(block_ / 16)),
        keys_(Products::take_panels(block_, p.channels, arena)),
        weights_(Products::take_left(p.rows(), block_, arena)),
        values_(Products::take_rows(block_, p.channels, arena)),
        stage_(arena.take<float>(32 * 32)),
        out_(arena.take<float>(32 * round_up(p.depth, 16))),
        mean_(Products::take_left(32, p.channels, arena)) {
    mean_.m_step = padded_ / 32 * Products::kTile;
  }

  // w_v: of an item that is all of a sample, its outputs are made; else it leaves sums.
  void run(int64_t sample, int64_t begin, int64_t end, Queries& queries, const PartialSums& partial, const Weights* w_v,
           const QFormerOutputs& outputs) {
    partial.state.start(round_up(p_.rows(), 16));
    if (begin == end) {
      if (w_v == nullptr) {
        std::fill_n(partial.sums, p_.rows() * padded_, 0.0f);
      } else {
        for (int64_t r = 0; r < p_.rows(); ++r) nothing(sample, r, outputs);
      }
    }
    for (int64_t n = begin; n < end; n += block_) {
      const bool add = n > begin, last = n + block_ >= end;
      const auto keys = reader_.read(sample, n, std::min(n + block_, end));
      mark(sample, n, keys.count);
      Products::pack_panels(keys.data, keys.stride, keys.count, p_.channels, keys_);
      if (weigh(keys.count, queries, partial.state) && add) rescale(partial.sums);
      Products::pack_rows(keys.data, keys.stride, keys.count, p_.channels, values_);
      auto left = weights_;
      for (int64_t r = 0; r < p_.rows(); r += 32, left.data += 2 * left.m_step) {
        float* const sums = partial.sums + r * padded_;
        if (last && w_v != nullptr) {
          means(left, r, add ? sums : nullptr, partial.state);
          finish(sample, r, partial.state, *w_v, outputs);
        } else {
          Products::template part<Planes>(left, 32, values_, p_.channels, 0, values_.k32, sums, padded_, add);
        }
      }
    }
  }

 private:
  // Steps of 32 channels whose left tiles stay in the nearest cache while all keys pass.
  static constexpr int64_t kSteps = 12;

  void mark(int64_t sample, int64_t begin, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
      uint32_t bits = 0;
      for (int64_t j = i; j < std::min(i + 16, count); ++j) {
        bits |= static_cast<uint32_t>(KeyReader<T, TileKeys>::visible(p_, sample, begin + j)) << (j - i);
      }
      visible_[i / 16] = static_cast<__mmask16>(bits);
    }
  }

  // Weights of a block's keys for all heads. Whether sums so far change.
  bool weigh(int64_t count, Queries& queries, const ColumnState& state) {
    bool moved = false;
    weights_.k_step = Products::kTile, weights_.stride = 64, weights_.m_step = ceil_div(count, 32) * Products::kTile;
    for (int64_t head = 0; head < p_.heads; head += queries.chunk_heads()) {
      const int64_t first = head * p_.queries, last = std::min(head + queries.chunk_heads(), p_.heads) * p_.queries;
      auto left = queries.chunk(head);
      for (int64_t r = first; r < last; r += 32, left.data += 2 * left.m_step) {
        for (int64_t k = 0; k < keys_.k32; k += kSteps) {
          const int64_t end = std::min(k + kSteps, keys_.k32);
          Products::template part<Queries::kPlanes>(left, 32, keys_, count, k, end, scores_, block_, k > 0);
        }
        for (int64_t i = r; i < std::min(r + 32, p_.rows()); ++i) moved |= softmax(scores_ + (i - r) * block_, count, i, state);
      }
    }
    return moved;
  }

  // A row of scores becomes weights, as in `online_softmax`. Whether sums so far change.
  bool softmax(float* s, int64_t count, int64_t row, const ColumnState& state) {
    const __m512 hidden = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __m512 greatest = hidden;
    for (int64_t i = 0; i < count; i += 16) {
      const __m512 x = _mm512_mask_mov_ps(hidden, visible_[i / 16], _mm512_load_ps(s + i));
      if (visible_[i / 16] != 0xffff) _mm512_store_ps(s + i, x);
      greatest = _mm512_max_ps(greatest, x);
    }
    float& m_i = state.m_i[row];
    float base = std::max(_mm512_reduce_max_ps(greatest), m_i);
    // no key so far: nothing to multiply
    const float alpha = m_i == base ? 1.0f : std::exp(m_i - base);
    m_i = base;
    if (base == -std::numeric_limits<float>::infinity()) base = 0.0f;
    const Lanes minus_base = splat(-base);
    char* to = weights_.data + row / 16 * weights_.m_step + row % 16 * 64;
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; i += 32, to += Products::kTile) {
      const __m512 low = exp(load(s + i) + minus_base).v;
      const __m512 high = i + 16 < count ? exp(load(s + i + 16) + minus_base).v : _mm512_setzero_ps();
      sum = _mm512_add_ps(_mm512_add_ps(sum, low), high);
      keep(low, high, to, weights_.plane);
    }
    const __m512d halves =
        _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(sum)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(sum, 1)));
    state.l_i[row] = static_cast<float>(state.l_i[row] * static_cast<double>(alpha) + _mm512_reduce_add_pd(halves));
    alpha_[row] = alpha;
    return alpha != 1.0f;
  }

  // 32 numbers as a row of a tile
  static void keep(__m512 low, __m512 high, char* to, int64_t plane) {
    if constexpr (Planes == 1) {
      _mm512_store_si512(to, narrow_pair(low, high));
    } else {
      alignas(64) float row[32];
      _mm512_store_ps(row, low);
      _mm512_store_ps(row + 16, high);
      Products::store_row(row, 32, to, plane);
    }
  }

  void rescale(float* sums) const {
    for (int64_t r = 0; r < p_.rows(); ++r) {
      if (alpha_[r] == 1.0f) continue;
      for (int64_t c = 0; c < padded_; c += 16) store(sums + r * padded_ + c, splat(alpha_[r]) * load(sums + r * padded_ + c));
    }
  }

  // Rows r .. r + 31 of the sums, those so far (or null) and this block's, divided.
  void means(const typename Products::Left& left, int64_t r, float* sums, const ColumnState& state) {
    const int64_t count = std::min<int64_t>(p_.rows() - r, 32);
    __m512 shares[32];
    for (int64_t i = 0; i < count; ++i)
      shares[i] = _mm512_set1_ps(static_cast<float>(1.0 / static_cast<double>(state.l_i[r + i])));
    for (int64_t k = 0; k < padded_ / 32; ++k) {
      const int64_t columns = std::min<int64_t>(p_.channels - 32 * k, 32), row = sums == nullptr ? 32 : padded_;
      float* const to = sums == nullptr ? stage_ : sums + 32 * k;
      auto right = values_;
      right.data += 2 * k * values_.k32 * Products::kTile;
      Products::template part<Planes>(left, 32, right, columns, 0, values_.k32, to, row, sums != nullptr);
      for (int64_t i = 0; i < count; ++i) {
        const __m512 low = _mm512_mul_ps(shares[i], _mm512_load_ps(to + i * row));
        const __m512 high = columns > 16 ? _mm512_mul_ps(shares[i], _mm512_load_ps(to + i * row + 16)) : _mm512_setzero_ps();
        keep(low, high, mean_.data + i / 16 * mean_.m_step + k * Products::kTile + i % 16 * 64, mean_.plane);
      }
    }
  }

  // Their outputs: W_v,h of their means for every head h that has some of them.
  void finish(int64_t sample, int64_t r, const ColumnState& state, const Weights& w_v, const QFormerOutputs& outputs) {
    const int64_t last = std::min(r + 32, p_.rows()), depth = p_.depth, out_row = round_up(depth, 16);
    for (int64_t h = r / p_.queries; h * p_.queries < last; ++h) {
      const auto& panels = w_v.panels(h);
      for (int64_t k = 0; k < panels.k32; k += kSteps) {
        Products::template part<Planes>(mean_, 32, panels, depth, k, std::min(k + kSteps, panels.k32), out_, out_row, k > 0);
      }
      for (int64_t i = std::max(r, h * p_.queries); i < std::min(last, (h + 1) * p_.queries); ++i) {
        const float m_i = state.m_i[i];
        if (m_i == -std::numeric_limits<float>::infinity()) {
          nothing(sample, i, outputs);
          continue;
        }
        outputs.lse[sample * p_.rows() + i] = static_cast<float>(m_i + std::log(static_cast<double>(state.l_i[i])));
        float* to = at(sample, i, outputs);
        const T* bias = static_cast<const T*>(p_.b_v);
        for_lanes(depth, [&](int64_t d, int64_t lanes, auto whole) {
          const Lanes x = load(out_ + (i - r) * out_row + d);
          store(to + d, bias == nullptr ? x : x + load(bias + h * depth + d, lanes, whole), lanes, whole);
        });
      }
    }
  }

  // A row without a key.
  void nothing(int64_t sample, int64_t row, const QFormerOutputs& outputs) const {
    outputs.lse[sample * p_.rows() + row] = -std::numeric_limits<float>::infinity();
    std::fill_n(at(sample, row, outputs), p_.depth, 0.0f);
  }

  float* at(int64_t sample, int64_t row, const QFormerOutputs& outputs) const {
    return outputs.out + (sample * p_.queries + row % p_.queries) * p_.width() + row / p_.queries * p_.depth;
  }

  // What reads keys copies no row that is there as it is wanted.
  struct TileKeys {
    using Element = typename Products::Element;
    static constexpr int64_t multiple = 32, rows_multiple = 1;
  };

  const QFormerProblem& p_;
  int64_t padded_, block_;
  KeyReader<T, TileKeys> reader_;
  float *scores_, *alpha_;
  __mmask16* visible_;
  typename Products::Panels keys_;
  typename Products::Left weights_;
  typename Products::Rows values_;
  float *stage_, *out_;
  typename Products::Left mean_;
};

}  // namespace
}  // namespace longreel
