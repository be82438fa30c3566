"""The online softmax over tiles of keys. Scores are in units of log 2, scale included."""

import triton
import triton.language as tl
from longreel.triton_kernels.common.tiles import onto_head, over_head, scaled, zeros

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# Below every score: a finite start of the running maximum keeps -inf - -inf out of the sums, where all that a row met is hidden.
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def visible_in(lo, hi, n, stop):
    """[rows, keys] Whether a row of bounds lo, hi attends to key n before `stop`."""
    return (n[None, :] >= lo[:, None]) & (n[None, :] < tl.minimum(hi, stop)[:, None])


@triton.jit
def hide(tile, visible, VALUE: tl.constexpr):
    """`tile` [rows, keys] with VALUE where a key is hidden from its row. `visible`: whether every row attends to every key of the
    step; the rows' bounds; the keys, and where their part of the range ends."""
    all_visible, lo, hi, n, stop = visible
    if not all_visible:
        tile = tl.where(visible_in(lo, hi, n, stop), tile, VALUE)
    return tile


@triton.jit
def softmax_start(BM: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr):
    """m_i [BM], the largest score; l_i [BM], the sum of exp2(score - m_i); acc [BM, head], that sum weighting the values."""
    return tl.full([BM], LOWEST, tl.float32), tl.zeros([BM], tl.float32), zeros(BM, BD, TAIL)


@triton.jit
def softmax_weights(s, m_i, l_i):
    """What scores [BM, BN], -inf where hidden, weigh by the largest so far, what the sums so far are to be scaled by, then m_i
    and l_i."""
    m_new = tl.maximum(m_i, tl.max(s, axis=1))
    p = tl.exp2(s - m_new[:, None])
    alpha = tl.exp2(m_i - m_new)
    return p, alpha, m_new, l_i * alpha + tl.sum(p, axis=1)


@triton.jit
def softmax_step(queries, b_k, b_v, visible, state, log2_scale):
    """One more tile of keys; `visible` as in `hide`."""
    (b_q,) = queries
    m_i, l_i, acc = state
    # [BM, BN]
    s = hide(over_head(b_q, b_k) * log2_scale, visible, float("-inf"))
    p, alpha, m_i, l_i = softmax_weights(s, m_i, l_i)
    return m_i, l_i, onto_head(p, b_v, scaled(acc, alpha))


@triton.jit
def softmax_total(m_i, l_i):
    """What makes the sums weighted means, and the natural log of the sum of exp: -inf where no key is visible."""
    some = l_i > 0
    divisor = tl.where(some, l_i, 1.0)
    return 1.0 / divisor, tl.where(some, m_i * LN_2 + tl.log(divisor), float("-inf"))


@triton.jit
def softmax_end(m_i, l_i, acc):
    """The weighted mean of the values, 0 where no key is visible, and the natural log of the sum of exp, -inf there."""
    factor, lse = softmax_total(m_i, l_i)
    return scaled(acc, factor), lse
