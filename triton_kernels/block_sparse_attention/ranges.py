"""What the kernels share: ranges of the plan, the keys of a range, and the way of query rows through both of their ranges.

A tile of queries attends to a range of K, the local keys, and one of G, the global keys; it is walked in steps of BN keys, of
which those that every row attends to whole need no mask.
"""

import triton
import triton.language as tl
from longreel.triton_kernels.common.tiles import read

# int32 fields of a range, a tile of queries and a KV block, see longreel.layout.planned
RANGE = tl.constexpr(4)
TILE = tl.constexpr(12)
KV_BLOCK = tl.constexpr(6)
# What changes from call to call compiles nothing anew.
VARYING = (
    "batch", "queries", "keys", "global_keys", "samples", "blocks", "splits", "slots", "chunks", "tile_keys", "dlse_b",
    "dlse_h",
)  # fmt: skip


@triton.jit
def clipped(p_range, start):
    """The range at `p_range` without what stands before `start`: begin, full_begin, full_end, end."""
    begin = tl.maximum(tl.load(p_range), start)
    full_begin = tl.maximum(tl.load(p_range + 1), begin)
    full_end = tl.maximum(tl.load(p_range + 2), full_begin)
    end = tl.maximum(tl.load(p_range + 3), full_end)
    return begin, full_begin, full_end, end


@triton.jit
def behind(p_range, first, more, most):
    """The range at `p_range` with `more` keys in front of its own, of which `first` and those that follow are visible; keys
    before `most`."""
    own = tl.where(tl.load(p_range + 1) == 0, tl.load(p_range + 2), 0)
    end = tl.maximum(tl.minimum(more + tl.load(p_range + 3), most), first)
    return first, first, tl.minimum(tl.maximum(more + own, first), end), end


@triton.jit
def local_range(layout, tile, b, keys):
    """The local keys of a tile, as `clipped` gives them, and how many keys stand in front of its rows' own."""
    more = 0
    if layout.mem_len is None:
        begin, full_begin, full_end, end = clipped(tile + 4, tl.load(layout.start + b * layout.start_b))
    elif layout.k_before is None:
        begin, full_begin, full_end, end = clipped(tile + 4, 0)
    else:
        more = tl.load(layout.k_before + b)
        begin, full_begin, full_end, end = behind(tile + 4, 0, more, keys)
    return begin, full_begin, full_end, end, more


@triton.jit
def global_range(layout, tile, b, global_keys):
    """The same of its global keys; of a memory's entries, those of the layout stand behind others."""
    more = 0
    if layout.mem_len is None:
        start = tl.load(layout.start + b * layout.start_b)
        first = first_visible(layout.global_index + b * layout.index_b, global_keys, start)
        begin, full_begin, full_end, end = clipped(tile + 4 + RANGE, first)
    else:
        more = tl.load(layout.mem_len + b)
        first = 0
        if layout.mem_start is not None:
            first = tl.load(layout.mem_start + b)
        begin, full_begin, full_end, end = behind(tile + 4 + RANGE, first, more, global_keys)
    return begin, full_begin, full_end, end, more


@triton.jit
def parts(begin, full_begin, full_end, end, STEP: tl.constexpr):
    """Steps that need a mask before the whole steps, where those end, and all steps that need one."""
    head = tl.cdiv(full_begin - begin, STEP)
    tail = full_begin + (full_end - full_begin) // STEP * STEP
    return head, tail, head + tl.cdiv(end - tail, STEP)


@triton.jit
def partial_step(i, head, begin, full_begin, tail, end, STEP: tl.constexpr):
    """First place of the i-th step that needs a mask, and where its part of the range ends."""
    before = i < head
    return tl.where(before, begin + i * STEP, tail + (i - head) * STEP), tl.where(before, full_begin, end)


@triton.jit
def first_visible(index, count, start):
    """Global keys, in order at `index`, before `start`: no row attends to them."""
    low = 0
    if start > 0:
        high = count
        while low < high:
            middle = (low + high) // 2
            key = tl.load(index + middle)
            if (key >= 0) & (key < start):
                low = middle + 1
            else:
                high = middle
    return low


@triton.jit
def fetch(p, m):
    """What `p` points at, 0 where `m` is false; `m` None reads everything."""
    if m is None:
        value = tl.load(p)
    else:
        value = tl.load(p, mask=m, other=0)
    return value


@triton.jit
def query_block(layout, heads, samples, blocks, BM: tl.constexpr):
    """What a program of the kernels over query rows is for: head, sample of the batch, sample of the plan, tile, rows.

    Heads of one tile run side by side, so that those that share keys find them in L2. `samples` of the batch share a sample of
    the plan, a tile of the plan has `blocks` blocks of BM rows; one that the tile does not reach has first >= last.
    """
    h = (tl.program_id(0) % heads).to(tl.int64)
    pid = tl.program_id(0) // heads
    tile = layout.tiles + tl.load(layout.order + pid // samples // blocks).to(tl.int64) * TILE
    sample = tl.load(tile).to(tl.int64)
    first = tl.load(tile + 1) + pid // samples % blocks * BM
    return h, sample + pid % samples, sample, tile, first, tl.load(tile + 2)


@triton.jit
def kv_head(k, v, b, h):
    """Where the keys and values of one head stand: row 0, strides of rows and of elements."""
    return k.p + b * k.b + h * k.h, k.r, k.d, v.p + b * v.b + h * v.h, v.r, v.d


@triton.jit
def global_head(k, v, global_k, global_v, b, h):
    """The same of the global keys, which are rows of K where they have no tensor of their own."""
    if global_k is None:
        p_kv = kv_head(k, v, b, h)
    else:
        p_kv = kv_head(global_k, global_v, b, h)
    return p_kv


@triton.jit
def read_keys(p_kv, rows, m_n, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, UPCAST: tl.constexpr):
    """Head tiles of the keys and of the values of `rows`."""
    p_k, k_r, k_d, p_v, v_r, v_d = p_kv
    b_k = read(p_k, k_d, rows, k_r, m_n, HEAD, BD, TAIL, UPCAST)
    return b_k, read(p_v, v_d, rows, v_r, m_n, HEAD, BD, TAIL, UPCAST)


@triton.jit
def walk_tile(
    STEP: tl.constexpr, queries, state, p_local, p_global, tile, p_bounds, m_r, layout, b, keys, global_keys, log2_scale,
    GLOBAL: tl.constexpr, UPCAST: tl.constexpr, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """`state` after STEP(queries, b_k, b_v, visible, state, log2_scale) on every step of both ranges of `tile`, `visible` as in
    `hide`; `p_bounds` [BM] points at the rows' lo, hi, glo, ghi. No row attends to what stands before the sample's start.

    One loop for all steps, those of the local keys first, of each range the whole ones first: a loop for each would fill and
    drain its stages for the two or three steps that it has.
    """
    # [BN]
    n = tl.arange(0, BN)
    # [BM]
    lo = fetch(p_bounds, m_r)
    hi = fetch(p_bounds + 1, m_r)
    begin, full_begin, full_end, end, more = local_range(layout, tile, b, keys)
    hi += more
    head, tail, partial = parts(begin, full_begin, full_end, end, BN)
    whole = (tail - full_begin) // BN
    local_steps = whole + partial
    steps = local_steps
    if GLOBAL:
        g_lo = fetch(p_bounds + 2, m_r)
        g_hi = fetch(p_bounds + 3, m_r)
        g_begin, g_full_begin, g_full_end, g_end, more = global_range(layout, tile, b, global_keys)
        g_hi += more
        g_head, g_tail, g_partial = parts(g_begin, g_full_begin, g_full_end, g_end, BN)
        g_whole = (g_tail - g_full_begin) // BN
        steps += g_whole + g_partial
    for step in range(0, steps):
        p_kv = p_local
        i = step
        i_whole, i_head, i_begin, i_full, i_tail, i_end = whole, head, begin, full_begin, tail, end
        i_lo, i_hi = lo, hi
        if GLOBAL:
            other = step >= local_steps
            p_kv = chosen(other, p_global, p_local)
            i = tl.where(other, step - local_steps, step)
            i_whole, i_head, i_begin, i_full, i_tail, i_end = chosen(
                other,
                (g_whole, g_head, g_begin, g_full_begin, g_tail, g_end),
                (whole, head, begin, full_begin, tail, end),
            )
            i_lo, i_hi = chosen(other, (g_lo, g_hi), (lo, hi))
        all_visible = i < i_whole
        at, stop = partial_step(i - i_whole, i_head, i_begin, i_full, i_tail, i_end, BN)
        at = tl.where(all_visible, i_full + i * BN, at)
        stop = tl.where(all_visible, at + BN, stop)
        m_n = at + n < stop
        b_k, b_v = read_keys(p_kv, at + n, m_n, HEAD, BD, TAIL, UPCAST)
        state = STEP(queries, b_k, b_v, (all_visible, i_lo, i_hi, at + n, stop), state, log2_scale)
    return state


@triton.jit
def chosen(condition, yes, no):
    """Of two tuples the elements of one."""
    if len(yes) == 2:
        return tl.where(condition, yes[0], no[0]), tl.where(condition, yes[1], no[1])
    else:
        return (
            tl.where(condition, yes[0], no[0]),
            tl.where(condition, yes[1], no[1]),
            tl.where(condition, yes[2], no[2]),
            tl.where(condition, yes[3], no[3]),
            tl.where(condition, yes[4], no[4]),
            tl.where(condition, yes[5], no[5]),
        )
