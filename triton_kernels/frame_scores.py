"""Scores of a frame's tokens against the queries, and what the forward and the backward pass do with them alike."""

import triton
import triton.language as tl


@triton.jit
def score_tile(
    query, patches, scores, grad_context, dots, q_prompt, q_query, q_channel, x_token, x_channel, g_prompt,
    scale, first, count, prompts, queries, channels,
    UPCAST: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BQ: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """scores[n, r] = x_n . q_r, negated where scale is negative, for tokens first .. first + BT; row r is query
    r % queries of prompt r // queries. With `grad_context`, dots[n, p] = x_n . grad_context_p from the same read."""
    # [BT], [BK]
    n = first + tl.arange(0, BT)
    k = tl.arange(0, BK)
    m_n = n < count
    rows = prompts * queries
    tiles = tl.cdiv(rows, BQ)
    if grad_context is not None:
        tiles = tl.maximum(tiles, tl.cdiv(prompts, BG))
    for tile in range(0, tiles):
        # [BQ]
        r = tile * BQ + tl.arange(0, BQ)
        m_r = r < rows
        p_q = query + (r // queries).to(tl.int64) * q_prompt + (r % queries).to(tl.int64) * q_query
        p_q = p_q[None, :] + k.to(tl.int64)[:, None] * q_channel
        p_x = patches + n.to(tl.int64)[:, None] * x_token + k.to(tl.int64)[None, :] * x_channel
        # [BT, BQ]
        s = tl.zeros([BT, BQ], tl.float32)
        lost = tl.zeros([BT, BQ], tl.float32)
        if grad_context is not None:
            # [BG]
            p = tile * BG + tl.arange(0, BG)
            m_p = p < prompts
            p_g = grad_context + p.to(tl.int64)[None, :] * g_prompt + k[:, None]
            d = tl.zeros([BT, BG], tl.float32)
        for done in range(0, channels, BK):
            m_k = k < channels - done
            b_x = tl.load(p_x, mask=m_n[:, None] & m_k[None, :], other=0.0)
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
            if grad_context is not None:
                b_g = tl.load(p_g, mask=m_k[:, None] & m_p[None, :], other=0.0).to(b_x.dtype)
                d = tl.dot(b_x, b_g, d, input_precision="ieee")
                p_g += BK
            p_x += tl.cast(BK, tl.int64) * x_channel
            p_q += tl.cast(BK, tl.int64) * q_channel
        s = tl.where(scale < 0, -s, s)
        tl.store(scores + n.to(tl.int64)[:, None] * rows + r[None, :], s, mask=m_n[:, None] & m_r[None, :])
        if grad_context is not None:
            tl.store(dots + n.to(tl.int64)[:, None] * prompts + p[None, :], d, mask=m_n[:, None] & m_p[None, :])


@triton.jit
def read_scores(p_s, t, rows, m_n, m_q):
    """[BT, BQ] from token t on; past L1, which knows nothing of what other programs wrote."""
    return tl.load(p_s + tl.cast(t, tl.int64) * rows, mask=m_n[:, None] & m_q[None, :], other=0.0, cache_modifier=".cg")


@triton.jit
def largest_scores(p_s, rows, count, n, m_q, BT: tl.constexpr, BQ: tl.constexpr):
    """[BQ] The largest score of every query; -inf in a frame without tokens."""
    top = tl.full([BQ], float("-inf"), tl.float32)
    for t in range(0, count, BT):
        m_n = t + n < count
        s = read_scores(p_s, t, rows, m_n, m_q)
        top = tl.maximum(top, tl.max(tl.where(m_n[:, None], s, float("-inf")), axis=0))
    return top


@triton.jit
def exponentials(s, top, scale, m_n):
    """exp(scale (s - top)), 0 for tokens that are not there. The scale, not negative here, joins after the largest score
    has been subtracted: large scores lose nothing to it."""
    return tl.where(m_n[:, None], tl.exp((s - top[None, :]) * scale), 0.0)


@triton.jit
def valid(query_mask, mask_row, q, queries, m_query):
    """[BQ] Whether query q exists and takes part."""
    m = q < queries
    if query_mask is not None:
        m &= tl.load(query_mask + mask_row + q.to(tl.int64) * m_query, mask=m, other=0) != 0
    return m


@triton.jit
def query_tile(
    scores, query_mask, mask_row, q, n, rows, queries, count, m_query, BT: tl.constexpr, BQ: tl.constexpr
):  # fmt: skip
    """Of queries `q` [BQ] of a frame: which exist, which take part, [BT, BQ] where the scores of tokens `n` stand, and the
    largest score of each."""
    m_q = q < queries
    p_s = scores + n.to(tl.int64)[:, None] * rows + q[None, :]
    m_valid = valid(query_mask, mask_row, q, queries, m_query)
    return m_q, m_valid, p_s, largest_scores(p_s, rows, count, n, m_q, BT, BQ)


@triton.jit
def row_share(query_mask, mask_row, queries, m_query, BQ: tl.constexpr):
    """1 / the number of valid queries."""
    count = 0
    for first in range(0, queries, BQ):
        count += tl.sum(valid(query_mask, mask_row, first + tl.arange(0, BQ), queries, m_query).to(tl.int32))
    return 1.0 / tl.maximum(count, 1)


@triton.jit
def add_weights(weights, w, n, m_n, first):
    """weights[n] = w for the first tile of queries, += w after it."""
    if first > 0:
        w += tl.load(weights + n, mask=m_n, other=0.0, cache_modifier=".cg")
    tl.store(weights + n, w, mask=m_n)


@triton.jit
def sweep(
    patches, coefficients, x_token, x_channel, c_token, c_row, c, r, count, rows, channels, gain,
    UPCAST: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """[BC, BQ] sum over tokens of x_n[c] gain coefficients[n, r]: channels on the long side of the tile."""
    m_c = c < channels
    m_r = r < rows
    # [BC, BQ]
    total = tl.zeros([BC, BQ], tl.float32)
    for t in range(0, count, BN):
        # [BN]
        n = t + tl.arange(0, BN)
        m_n = n < count
        b_x = tl.load(
            patches + n.to(tl.int64)[:, None] * x_token + c.to(tl.int64)[None, :] * x_channel,
            mask=m_n[:, None] & m_c[None, :],
            other=0.0,
        )
        # [BN, BQ]
        b_c = tl.load(
            coefficients + n.to(tl.int64)[:, None] * c_token + r.to(tl.int64)[None, :] * c_row,
            mask=m_n[:, None] & m_r[None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        if UPCAST:
            b_x = b_x.to(tl.float32)
        b_c = (b_c * gain).to(b_x.dtype)
        total = tl.dot(tl.trans(b_x), b_c, total, input_precision="ieee")
    return total
