// The weights by heads, and rows absorbed into them: a_hn = scale W_h^T q_hn for every head h and query n.
#pragma once

#include "common/rows.h"
#include "common/scratch.h"
#include "qformer_attention/qformer_attention.h"

namespace longreel {
namespace {

// W [H D, C], and per head what the products take of it.
template <class T, class Products>
class HeadWeights {
 public:
  // rows: for sums over D; panels: for dots over C
  HeadWeights(const QFormerProblem& p, const void* weights, bool rows, bool panels, Arena& arena)
      : p_(p), weights_(static_cast<const T*>(weights)), padded_(round_up(p.channels, Products::multiple)) {
    if (!kGiven) wide_ = arena.take<float>(p.width() * padded_);
    rows_ = rows ? arena.take<typename Products::Rows>(p.heads) : nullptr;
    panels_ = panels ? arena.take<typename Products::Panels>(p.heads) : nullptr;
    for (int64_t h = 0; h < p.heads; ++h) {
      if (rows) take(rows_, h, Products::take_rows(p.depth, p.channels, arena));
      if (panels) take(panels_, h, Products::take_panels(p.depth, p.channels, arena));
    }
  }

  void pack(int64_t h) {
    if constexpr (kGiven) {
      const T* given = weights_ + h * p_.depth * p_.channels;
      if (rows_ != nullptr) Products::pack_rows(given, p_.channels, p_.depth, p_.channels, rows_[h]);
      if (panels_ != nullptr) Products::pack_panels(given, p_.channels, p_.depth, p_.channels, panels_[h]);
    } else {
      float* wide = wide_ + h * p_.depth * padded_;
      for (int64_t d = 0; d < p_.depth; ++d) {
        copy_row(weights_ + (h * p_.depth + d) * p_.channels, 1, p_.channels, wide + d * padded_, padded_);
      }
      if (rows_ != nullptr) Products::pack_rows(wide, padded_, p_.depth, p_.channels, rows_[h]);
      if (panels_ != nullptr) Products::pack_panels(wide, padded_, p_.depth, p_.channels, panels_[h]);
    }
  }

  const typename Products::Rows& rows(int64_t h) const { return rows_[h]; }
  const typename Products::Panels& panels(int64_t h) const { return panels_[h]; }

 private:
  static constexpr bool kGiven = Products::packs_given && std::is_same_v<T, typename Products::Element>;

  // While the arena only counts there is nowhere to put it.
  template <class Operand>
  static void take(Operand* list, int64_t h, const Operand& made) {
    if (list != nullptr) list[h] = made;
  }

  const QFormerProblem& p_;
  const T* weights_;
  int64_t padded_;
  float* wide_ = nullptr;
  typename Products::Rows* rows_;
  typename Products::Panels* panels_;
};

// [H Nq, C] of one sample: fp32 rows, and panels to multiply keys with
template <class T, class Products>
class Absorbed {
 public:
  Absorbed(const QFormerProblem& p, bool /*all*/, Arena& arena) : Absorbed(p, arena) {}
  Absorbed(const QFormerProblem& p, Arena& arena)
      : p_(p),
        padded_(round_up(p.channels, Products::multiple)),
        given_(arena.take<float>(p.queries * p.width())),
        // products write rows in blocks of 32
        rows_(arena.take<float>((round_up(p.rows(), 32) + 32) * padded_)),
        left_(Products::take_left(p.queries, p.depth, arena)),
        panels_(Products::take_panels(p.rows(), p.channels, arena)) {
    if (Products::rounds) lost_ = Products::take_panels(p.rows(), p.channels, arena);
  }

  // given: [Nq, H D]
  template <class From>
  void make(const From* given, const HeadWeights<T, Products>& weights, float scale) {
    const int64_t width = p_.width();
    copy_row(given, 1, p_.queries * width, given_, p_.queries * width);
    for (int64_t h = 0; h < p_.heads; ++h) {
      Products::pack(given_ + h * p_.depth, width, 1, p_.queries, p_.depth, left_);
      Products::sums(left_, p_.queries, weights.rows(h), p_.channels, rows_ + h * p_.queries * padded_, padded_, false);
    }
    for (int64_t r = 0; r < p_.rows(); ++r) {
      float* row = rows_ + r * padded_;
      for (int64_t c = 0; c < padded_; c += 16) store(row + c, splat(scale) * load(row + c));
      std::fill(row + p_.channels, row + padded_, 0.0f);
    }
    Products::pack_panels(rows_, padded_, p_.rows(), p_.channels, panels_);
    if constexpr (Products::rounds) Products::pack_panels(rows_, padded_, p_.rows(), p_.channels, lost_, true);
  }

  // out [keys, columns] = keys . rows; with `exactly` also what rounding took off the rows, which a softmax would make much of
  void dots(const typename Products::Left& keys, int64_t count, float* out, int64_t columns, bool exactly = true) const {
    Products::dots(keys, count, panels_, columns, out, columns);
    if constexpr (Products::rounds) {
      if (exactly) Products::dots(keys, count, lost_, columns, out, columns, true);
    }
  }

  const float* rows() const { return rows_; }

 private:
  const QFormerProblem& p_;
  int64_t padded_;
  float* given_;
  float* rows_;
  typename Products::Left left_;
  typename Products::Panels panels_;
  typename Products::Panels lost_;  // what rounding takes off
};

}  // namespace
}  // namespace longreel
