// Queries with W_k in them on AMX tiles, as rows: left sides of products, which are not transposed.
#pragma once

#include <numeric>

#include "qformer_attention/absorbed.h"
#include "qformer_attention/products_amx.h"

namespace longreel {
namespace {

// Sixteen numbers and sixteen more, rounded to bf16.
inline __m512i narrow_pair(__m512 low, __m512 high) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)); }

// [H Nq, C] of one sample: of all heads, or of one chunk of heads at a time.
template <class T, int Planes>
class TileQueries {
 public:
  using Products = TileProducts<Planes>;
  using Left = typename Products::Left;
  // A softmax makes much of what rounding to one bf16 number would take off.
  static constexpr int kPlanes = std::max(Planes, 2);

  TileQueries(const QFormerProblem& p, bool all, Arena& arena)
      : p_(p),
        all_(all),
        heads_(std::min(p.heads, 32 / std::gcd(p.queries, int64_t{32}))),
        steps_(ceil_div(p.channels, 32)),
        given_(arena.take<float>(p.queries * p.depth)),
        stage_(arena.take<float>(32 * 32)),
        left_(Products::take_left(p.queries, p.depth, arena)) {
    const int64_t rows = round_up((all ? p.heads : heads_) * p.queries, 32);
    made_.m_step = steps_ * Products::kTile, made_.k_step = Products::kTile, made_.stride = 64;
    made_.plane = rows / 16 * made_.m_step;
    made_.data = arena.take<char>(kPlanes * made_.plane);
  }

  // given [Nq, H D]; of a chunk at a time nothing is made yet.
  void make(const T* given, const HeadWeights<T, Products>& weights, float scale) {
    from_ = given, weights_ = &weights, scale_ = scale;
    for (int64_t h = 0; all_ && h < p_.heads; ++h) absorb(h, h * p_.queries);
  }

  // Chunks of whole heads, whose rows fill whole pairs of tiles but for the last's.
  int64_t chunk_heads() const { return heads_; }

  Left chunk(int64_t head) {
    Left left = made_;
    if (all_) {
      left.data += head * p_.queries / 16 * left.m_step;
    } else {
      for (int64_t h = head; h < std::min(head + heads_, p_.heads); ++h) absorb(h, (h - head) * p_.queries);
    }
    return left;
  }

 private:
  // scale W_k,h^T q_hn as rows `first` and on
  void absorb(int64_t h, int64_t first) {
    for (int64_t i = 0; i < p_.queries; ++i) {
      copy_row(from_ + i * p_.width() + h * p_.depth, 1, p_.depth, given_ + i * p_.depth, p_.depth);
    }
    Products::pack(given_, p_.depth, 1, p_.queries, p_.depth, left_);
    const auto& rows = weights_->rows(h);
    for (int64_t k = 0; k < steps_; ++k) {
      const int64_t columns = std::min<int64_t>(p_.channels - 32 * k, 32);
      auto right = rows;
      right.data += 2 * k * rows.k32 * Products::kTile;
      for (int64_t i = 0; i < p_.queries; i += 32) {
        Left left = left_;
        left.data += i / 16 * left.m_step;
        Products::template part<Planes>(left, 32, right, columns, 0, rows.k32, stage_, 32, false);
        for (int64_t r = 0; r < std::min<int64_t>(p_.queries - i, 32); ++r) {
          const int64_t row = first + i + r;
          keep(stage_ + r * 32, columns, made_.data + row / 16 * made_.m_step + k * Products::kTile + row % 16 * 64);
        }
      }
    }
  }

  void keep(float* row, int64_t columns, char* to) const {
    const __m512 scale = _mm512_set1_ps(scale_);
    const __m512 low = _mm512_mul_ps(scale, _mm512_load_ps(row));
    const __m512 high = columns > 16 ? _mm512_mul_ps(scale, _mm512_load_ps(row + 16)) : _mm512_setzero_ps();
    if constexpr (Planes == 1) {
      const __m512i rounded = narrow_pair(low, high);
      const __m512 low_lost = _mm512_sub_ps(low, widen_bf16(_mm512_castsi512_si256(rounded)));
      const __m512 high_lost = _mm512_sub_ps(high, widen_bf16(_mm512_extracti64x4_epi64(rounded, 1)));
      _mm512_store_si512(to, rounded);
      _mm512_store_si512(to + made_.plane, narrow_pair(low_lost, high_lost));
    } else {
      _mm512_store_ps(row, low);
      _mm512_store_ps(row + 16, high);
      Products::store_row(row, 32, to, made_.plane);
    }
  }

  const QFormerProblem& p_;
  bool all_;
  int64_t heads_, steps_;
  float *given_, *stage_;
  Left left_, made_;
  const T* from_ = nullptr;
  const HeadWeights<T, Products>* weights_ = nullptr;
  float scale_ = 0;
};

}  // namespace
}  // namespace longreel
