"""Scores of a frame's tokens against the queries, and what forward and backward do with them alike."""

import triton
import triton.language as tl
from longreel.triton_kernels.frames.launch import query_start, valid


@triton.jit
def score_tile(
    query, patches, frame, p_x, p_scores, p_dcontext, p_dots, dcontext_prompt,
    scale, first, count, prompts, queries, channels,
    UPCAST: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BQ: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """scores[n, r] = x_n . q_r, negated where scale is negative, for tokens first .. first + BT; row r is query
    r % queries of prompt r // queries. With `p_dcontext`, dots[n, p] = x_n . dcontext_p from the same read."""
    # [BT], [BK]
    n = first + tl.arange(0, BT)
    o_k = tl.arange(0, BK)
    m_n = n < count
    p_query = query_start(query, frame)
    rows = prompts * queries
    tiles = tl.cdiv(rows, BQ)
    if p_dcontext is not None:
        tiles = tl.maximum(tiles, tl.cdiv(prompts, BG))
    for tile in range(0, tiles):
        # [BQ]
        r = tile * BQ + tl.arange(0, BQ)
        m_r = r < rows
        p_q = p_query + (r // queries).to(tl.int64) * query.prompt + (r % queries).to(tl.int64) * query.query
        p_q = p_q[None, :] + o_k.to(tl.int64)[:, None] * query.channel
        p_k = p_x + n.to(tl.int64)[:, None] * patches.token + o_k.to(tl.int64)[None, :] * patches.channel
        # [BT, BQ]
        s = tl.zeros([BT, BQ], tl.float32)
        lost = tl.zeros([BT, BQ], tl.float32)
        if p_dcontext is not None:
            # [BG]
            prompt = tile * BG + tl.arange(0, BG)
            m_p = prompt < prompts
            p_g = p_dcontext + prompt.to(tl.int64)[None, :] * dcontext_prompt + o_k[:, None]
            d = tl.zeros([BT, BG], tl.float32)
        for done in range(0, channels, BK):
            m_k = o_k < channels - done
            b_x = tl.load(p_k, mask=m_n[:, None] & m_k[None, :], other=0.0)
            b_q = tl.load(p_q, mask=m_k[:, None] & m_r[None, :], other=0.0)
            if UPCAST:
                b_x = b_x.to(tl.float32)
                b_q = b_q.to(tl.float32)
            if b_x.dtype == tl.float32:
                # what a long sum drops is carried along: softmax turns absolute errors of scores into relative ones
                term = tl.dot(b_x, b_q, input_precision="ieee") - lost
                total = s + term
                lost = (total - s) - term
                s = total
            else:
                s = tl.dot(b_x, b_q, s)
            if p_dcontext is not None:
                b_g = tl.load(p_g, mask=m_k[:, None] & m_p[None, :], other=0.0).to(b_x.dtype)
                d = tl.dot(b_x, b_g, d, input_precision="ieee")
                p_g += BK
            p_k += tl.cast(BK, tl.int64) * patches.channel
            p_q += tl.cast(BK, tl.int64) * query.channel
        s = tl.where(scale < 0, -s, s)
        tl.store(p_scores + n.to(tl.int64)[:, None] * rows + r[None, :], s, mask=m_n[:, None] & m_r[None, :])
        if p_dcontext is not None:
            tl.store(p_dots + n.to(tl.int64)[:, None] * prompts + prompt[None, :], d, mask=m_n[:, None] & m_p[None, :])


@triton.jit
def read_scores(p_s, t, rows, m_n, m_q):
    """[BT, BQ] from token t on; past L1, which knows nothing of what other programs wrote."""
    return tl.load(p_s + tl.cast(t, tl.int64) * rows, mask=m_n[:, None] & m_q[None, :], other=0.0, cache_modifier=".cg")


@triton.jit
def largest_scores(p_s, rows, count, n, m_q, BT: tl.constexpr, BQ: tl.constexpr):
    """[BQ] The largest score of every query; -inf in a frame without tokens."""
    m_i = tl.full([BQ], float("-inf"), tl.float32)
    for t in range(0, count, BT):
        m_n = t + n < count
        s = read_scores(p_s, t, rows, m_n, m_q)
        m_i = tl.maximum(m_i, tl.max(tl.where(m_n[:, None], s, float("-inf")), axis=0))
    return m_i


@triton.jit
def exponentials(s, m_i, scale, m_n):
    """exp(scale (s - m_i)), 0 for tokens that are not there. The scale, not negative here, joins after the largest score
    has been subtracted: large scores lose nothing to it."""
    return tl.where(m_n[:, None], tl.exp((s - m_i[None, :]) * scale), 0.0)


@triton.jit
def query_tile(
    p_scores, query_mask, p_mask, q, n, rows, queries, count, BT: tl.constexpr, BQ: tl.constexpr
):  # fmt: skip
    """Of queries `q` [BQ] of a frame: which exist, which take part, [BT, BQ] where the scores of tokens `n` stand, and the
    largest score of each."""
    m_q = q < queries
    p_s = p_scores + n.to(tl.int64)[:, None] * rows + q[None, :]
    m_valid = valid(query_mask, p_mask, q, queries)
    return m_q, m_valid, p_s, largest_scores(p_s, rows, count, n, m_q, BT, BQ)


@triton.jit
def query_share(query_mask, p_mask, queries, BQ: tl.constexpr):
    """1 / the number of valid queries."""
    count = 0
    for first in range(0, queries, BQ):
        count += tl.sum(valid(query_mask, p_mask, first + tl.arange(0, BQ), queries).to(tl.int32))
    return 1.0 / tl.maximum(count, 1)


@triton.jit
def add_weights(p_weights, w, n, m_n, first):
    """weights[n] = w for the first tile of queries, += w after it."""
    if first > 0:
        w += tl.load(p_weights + n, mask=m_n, other=0.0, cache_modifier=".cg")
    tl.store(p_weights + n, w, mask=m_n)


@triton.jit
def weighted_sum(
    patches, p_x, p_coefficients, c_token, c_row, o_c, r, count, rows, channels, gain,
    UPCAST: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """[BC, BQ] sum over tokens of x_n[c] gain coefficients[n, r]: channels on the long side of the tile."""
    m_c = o_c < channels
    m_r = r < rows
    # [BC, BQ]
    acc = tl.zeros([BC, BQ], tl.float32)
    for t in range(0, count, BN):
        # [BN]
        n = t + tl.arange(0, BN)
        m_n = n < count
        b_x = tl.load(
            p_x + n.to(tl.int64)[:, None] * patches.token + o_c.to(tl.int64)[None, :] * patches.channel,
            mask=m_n[:, None] & m_c[None, :],
            other=0.0,
        )
        # [BN, BQ]
        b_c = tl.load(
            p_coefficients + n.to(tl.int64)[:, None] * c_token + r.to(tl.int64)[None, :] * c_row,
            mask=m_n[:, None] & m_r[None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        if UPCAST:
            b_x = b_x.to(tl.float32)
        b_c = (b_c * gain).to(b_x.dtype)
        acc = tl.dot(tl.trans(b_x), b_c, acc, input_precision="ieee")
    return acc
