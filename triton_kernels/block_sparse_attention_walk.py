"""What the kernels of block_sparse_attention share: runs of the plan, the keys of a run, one step of the softmax."""

import triton
import triton.language as tl
from longreel.triton_kernels.block_sparse_attention_head import onto_head, over_head, read, scaled

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# Below every score: a finite start of the running maximum keeps -inf - -inf out of the sums.
LOWEST = tl.constexpr(-3.0e38)
RUN = tl.constexpr(4)
TILE = tl.constexpr(12)
UNIT = tl.constexpr(6)


@triton.jit
def clipped(run, seen):
    """The run at `run` without what stands before `seen`: begin, full_begin, full_end, end."""
    begin = tl.maximum(tl.load(run), seen)
    full_begin = tl.maximum(tl.load(run + 1), begin)
    full_end = tl.maximum(tl.load(run + 2), full_begin)
    end = tl.maximum(tl.load(run + 3), full_end)
    return begin, full_begin, full_end, end


@triton.jit
def parts(begin, full_begin, full_end, end, STEP: tl.constexpr):
    """Steps that need the rows' bounds before the whole steps, where those end, and all steps that need bounds."""
    head = tl.cdiv(full_begin - begin, STEP)
    tail = full_begin + (full_end - full_begin) // STEP * STEP
    return head, tail, head + tl.cdiv(end - tail, STEP)


@triton.jit
def partial_step(i, head, begin, full_begin, tail, end, STEP: tl.constexpr):
    """First place of the i-th step that needs bounds, and where its part of the run ends."""
    before = i < head
    return tl.where(before, begin + i * STEP, tail + (i - head) * STEP), tl.where(before, full_begin, end)


@triton.jit
def first_seen(index, count, start):
    """Global keys, in order at `index`, before `start`: no row sees them."""
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
def key_rows(index, n, m_n, GATHER: tl.constexpr):
    """Rows of K that keys `n` of a run stand in: themselves, or by `index` where they are gathered."""
    rows = n
    if GATHER:
        rows = fetch(index + n, m_n)
    return rows


@triton.jit
def seen_by(lo, hi, n, stop):
    """[rows, keys] Whether a row of bounds lo, hi sees key n before `stop`."""
    return (n[None, :] >= lo[:, None]) & (n[None, :] < tl.minimum(hi, stop)[:, None])


@triton.jit
def query_block(tiles, order, heads, samples, blocks, BM: tl.constexpr):
    """What a program of the kernels over query rows is for: head, sample of the batch, sample of the plan, tile, rows.

    Heads of one tile run side by side, so that those that share keys find them in L2. `samples` of the batch share a sample of
    the plan, a tile of the plan has `blocks` blocks of BM rows; one that the tile does not reach has first >= last.
    """
    h = (tl.program_id(0) % heads).to(tl.int64)
    pid = tl.program_id(0) // heads
    tile = tiles + tl.load(order + pid // samples // blocks).to(tl.int64) * TILE
    sample = tl.load(tile).to(tl.int64)
    first = tl.load(tile + 1) + pid // samples % blocks * BM
    return h, sample + pid % samples, sample, tile, first, tl.load(tile + 2)


@triton.jit
def key_head(k, v, b, h, k_b, k_r, k_h, k_d, v_b, v_r, v_h, v_d):
    """Where the keys and values of one head stand: row 0, strides of rows and of elements."""
    return k + b * k_b + h * k_h, k_r, k_d, v + b * v_b + h * v_h, v_r, v_d


@triton.jit
def read_keys(keys, rows, m_n, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, UPCAST: tl.constexpr):
    """Head tiles of the keys and of the values of `rows`."""
    p_k, k_r, k_d, p_v, v_r, v_d = keys
    k = read(p_k, k_d, rows, k_r, m_n, HEAD, BD, TAIL, UPCAST)
    return k, read(p_v, v_d, rows, v_r, m_n, HEAD, BD, TAIL, UPCAST)


@triton.jit
def absorb(queries, k, v, seen, sums, log2_scale):
    """The online softmax over one more tile of keys; `top` is the largest score in units of log 2, scale included."""
    (q,) = queries
    top, total, acc = sums
    # [rows, keys]
    s = over_head(q, k) * log2_scale
    if seen is not None:
        s = tl.where(seen, s, LOWEST)
    higher = tl.maximum(top, tl.max(s, axis=1))
    p = tl.exp2(s - higher[:, None])
    if seen is not None:
        p = tl.where(seen, p, 0.0)
    kept = tl.exp2(top - higher)
    total = total * kept + tl.sum(p, axis=1)
    return higher, total, onto_head(p, v, scaled(acc, kept))


@triton.jit
def walk_tile(
    ABSORB: tl.constexpr, queries, sums, near, far, tile, own, m_r, index, places, seen, log2_scale,
    GLOBAL: tl.constexpr, GATHER: tl.constexpr, UPCAST: tl.constexpr,
    HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Take `queries`, rows of `tile`, through its run of K and its run of G; `own` points at their bounds, keys before `seen`
    and those of G that stand there are not seen."""
    begin, full_begin, full_end, end = clipped(tile + 4, seen)
    sums = walk(
        ABSORB, queries, sums, near, index, own, m_r, begin, full_begin, full_end, end, log2_scale,
        False, UPCAST, HEAD, BD, TAIL, BN,
    )  # fmt: skip
    if GLOBAL:
        begin, full_begin, full_end, end = clipped(tile + 4 + RUN, first_seen(index, places, seen))
        sums = walk(
            ABSORB, queries, sums, far, index, own + 2, m_r, begin, full_begin, full_end, end, log2_scale,
            GATHER, UPCAST, HEAD, BD, TAIL, BN,
        )  # fmt: skip
    return sums


@triton.jit
def walk(
    ABSORB: tl.constexpr, queries, sums, keys, index, own, m_r, begin, full_begin, full_end, end, log2_scale,
    GATHER: tl.constexpr, UPCAST: tl.constexpr, HEAD: tl.constexpr, BD: tl.constexpr, TAIL: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Take `queries` through one run of keys; `own` points at their two bounds in it."""
    n = tl.arange(0, BN)
    head, tail, partial = parts(begin, full_begin, full_end, end, BN)
    for at in range(full_begin, tail, BN):
        k, v = read_keys(keys, key_rows(index, at + n, None, GATHER), None, HEAD, BD, TAIL, UPCAST)
        sums = ABSORB(queries, k, v, None, sums, log2_scale)
    # [BM]
    lo = fetch(own, m_r)
    hi = fetch(own + 1, m_r)
    for i in range(0, partial):
        at, stop = partial_step(i, head, begin, full_begin, tail, end, BN)
        m_n = at + n < stop
        k, v = read_keys(keys, key_rows(index, at + n, m_n, GATHER), m_n, HEAD, BD, TAIL, UPCAST)
        sums = ABSORB(queries, k, v, seen_by(lo, hi, at + n, stop), sums, log2_scale)
    return sums
