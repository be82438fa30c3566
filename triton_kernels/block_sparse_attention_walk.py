"""What the kernels of block_sparse_attention share: runs of the plan, tiles of rows and keys, one step of the softmax."""

import triton
import triton.language as tl

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
def read(p, rows, stride, m_rows, HEAD: tl.constexpr, BD: tl.constexpr, UPCAST: tl.constexpr):
    """[rows, BD] from `p` [BD], the elements of row 0; zeros where `m_rows` is false and past HEAD."""
    at = p[None, :] + rows.to(tl.int64)[:, None] * stride
    if m_rows is not None:
        m = m_rows[:, None]
        if HEAD != BD:
            m = m & (tl.arange(0, BD) < HEAD)[None, :]
        tile = tl.load(at, mask=m, other=0.0)
    elif HEAD != BD:
        tile = tl.load(at, mask=(tl.arange(0, BD) < HEAD)[None, :], other=0.0)
    else:
        tile = tl.load(at)
    if UPCAST:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def write(p, tile, rows, stride, m_rows, HEAD: tl.constexpr, BD: tl.constexpr):
    """`tile` [rows, BD] to rows of `stride` contiguous elements at `p`."""
    d = tl.arange(0, BD)
    at = p + rows.to(tl.int64)[:, None] * stride + d[None, :]
    tl.store(at, tile, mask=m_rows[:, None] & (d < HEAD)[None, :])


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
def absorb(q, k, v, seen, top, total, acc, log2_scale):
    """The online softmax over one more tile of keys; `top` is the largest score in units of log 2, scale included."""
    # [rows, keys]
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * log2_scale
    if seen is not None:
        s = tl.where(seen, s, LOWEST)
    higher = tl.maximum(top, tl.max(s, axis=1))
    p = tl.exp2(s - higher[:, None])
    if seen is not None:
        p = tl.where(seen, p, 0.0)
    kept = tl.exp2(top - higher)
    total = total * kept + tl.sum(p, axis=1)
    acc = tl.dot(p.to(v.dtype), v, acc * kept[:, None], input_precision="ieee")
    return higher, total, acc


@triton.jit
def walk(
    q, p_k, p_v, k_r, v_r, index, own, m_r, begin, full_begin, full_end, end, top, total, acc, log2_scale,
    GATHER: tl.constexpr, UPCAST: tl.constexpr, HEAD: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Take the rows of `q` through one run of keys; `own` points at their two bounds in it."""
    n = tl.arange(0, BN)
    head, tail, partial = parts(begin, full_begin, full_end, end, BN)
    for at in range(full_begin, tail, BN):
        rows = key_rows(index, at + n, None, GATHER)
        k = read(p_k, rows, k_r, None, HEAD, BD, UPCAST)
        v = read(p_v, rows, v_r, None, HEAD, BD, UPCAST)
        top, total, acc = absorb(q, k, v, None, top, total, acc, log2_scale)
    # [BM]
    lo = fetch(own, m_r)
    hi = fetch(own + 1, m_r)
    for i in range(0, partial):
        at, stop = partial_step(i, head, begin, full_begin, tail, end, BN)
        m_n = at + n < stop
        rows = key_rows(index, at + n, m_n, GATHER)
        k = read(p_k, rows, k_r, m_n, HEAD, BD, UPCAST)
        v = read(p_v, rows, v_r, m_n, HEAD, BD, UPCAST)
        top, total, acc = absorb(q, k, v, seen_by(lo, hi, at + n, stop), top, total, acc, log2_scale)
    return top, total, acc
