"""block_sparse_attention forward for Hopper, in Gluon: a program's warps have different work.

Four warps bring keys and values, tile after tile, into a ring of stages in shared memory; one or two warpgroups take a stage when
it is full, 64 query rows each, and give it back when both have read it. Whole tiles of local keys are brought by the copy engine
(TMA), those that need a mask and those that are gathered by cp.async, which fills with zeros. The order of tiles is that of
`ranges.walk`, and the softmax that of the other kernels.
"""

from longreel.triton_kernels.block_sparse_attention.ranges import (
    VARYING,
    fetch,
    global_head,
    global_range,
    kv_head,
    local_range,
    partial_step,
    parts,
    query_block,
)
from longreel.triton_kernels.common.online_softmax import LOG2_E, LOWEST, softmax_total, softmax_weights, visible_in
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

# As triton up to 3.8 names them.
copy_rows = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
copy_whole = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared

ROWS = gl.constexpr(64)  # of a warpgroup
BRINGING = gl.constexpr(4)  # warps that bring


@gluon.constexpr_function
def wide_rows(head):
    """Rows of a head over four warps, 16 bytes a thread."""
    columns = head // 8
    return gl.BlockedLayout([1, 8], [32 // columns, columns], [4, 1], [1, 0])


@gluon.constexpr_function
def products(width):
    """What a warpgroup's product of 64 rows and `width` columns leaves in its threads."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, width, 16])


@gluon.jit
def bring_rows(p, stride, rows, m_n, to, HEAD: gl.constexpr):
    """Starts to copy rows of keys or values; zeros where `m_n` is false."""
    d = gl.arange(0, HEAD, gl.SliceLayout(0, wide_rows(HEAD)))
    at = p + rows.to(gl.int64)[:, None] * stride + d[None, :]
    at = gl.multiple_of(gl.max_contiguous(at, [1, 8]), [1, 16])
    copy_rows(to, at, mask=m_n[:, None])


@gluon.jit
def bring_tile(
    i, p_kv, index, at, stop, ring, GATHER: gl.constexpr, HEAD: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr
):
    """Step i: keys and values `at` to `stop`, by every thread."""
    p_k, k_r, _, p_v, v_r, _ = p_kv
    ks, vs, full, empty = ring
    stage = i % STAGES
    n = at + gl.arange(0, BN, gl.SliceLayout(1, wide_rows(HEAD)))
    rows = n
    if GATHER:
        rows = fetch(index + n, n < stop)
    mbarrier.wait(empty.index(stage), (i // STAGES & 1) ^ 1)
    bring_rows(p_k, k_r, rows, n < stop, ks.index(stage), HEAD)
    bring_rows(p_v, v_r, rows, n < stop, vs.index(stage), HEAD)
    async_copy.mbarrier_arrive(full.index(stage), increment_count=False)


@gluon.jit
def bring_whole(i, k_rows, v_rows, row, column, ring, HEAD: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr):
    """Step i by the copy engine; one thread arrives for all."""
    ks, vs, full, empty = ring
    stage = i % STAGES
    both: gl.constexpr = 2 * BN * HEAD * 2
    others: gl.constexpr = 32 * BRINGING - 1
    mbarrier.wait(empty.index(stage), (i // STAGES & 1) ^ 1)
    mbarrier.expect(full.index(stage), both)
    mbarrier.arrive(full.index(stage), count=others)
    copy_whole(k_rows, [row, column], full.index(stage), ks.index(stage))
    copy_whole(v_rows, [row, column], full.index(stage), vs.index(stage))


@gluon.jit
def bring_range(
    i, whole, p_kv, index, bounds, ring,
    GATHER: gl.constexpr, WHOLE: gl.constexpr, HEAD: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Its tiles as steps from i on, in the order in which they are taken; the step behind."""
    k_rows, v_rows, row, column = whole
    begin, full_begin, full_end, end = bounds
    head, tail, partial = parts(begin, full_begin, full_end, end, BN)
    full = (tail - full_begin) // BN
    for step in range(0, full):
        at = full_begin + step * BN
        if WHOLE:
            bring_whole(i + step, k_rows, v_rows, row + at, column, ring, HEAD, BN, STAGES)
        else:
            bring_tile(i + step, p_kv, index, at, at + BN, ring, GATHER, HEAD, BN, STAGES)
    i += full
    for step in range(0, partial):
        at, stop = partial_step(step, head, begin, full_begin, tail, end, BN)
        bring_tile(i + step, p_kv, index, at, stop, ring, GATHER, HEAD, BN, STAGES)
    return i + partial


@gluon.jit
def bring(
    whole, p_local, p_global, index, local, others, ring,
    GLOBAL: gl.constexpr, GATHER: gl.constexpr, WHOLE: gl.constexpr, HEAD: gl.constexpr, BN: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """The tiles of both ranges."""
    i = bring_range(0, whole, p_local, index, local, ring, False, WHOLE, HEAD, BN, STAGES)
    if GLOBAL:
        bring_range(i, whole, p_global, index, others, ring, GATHER, False, HEAD, BN, STAGES)


@gluon.jit
def take_tile(
    i, q_s, visible, state, ring, log2_scale, HEAD: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr
):  # fmt: skip
    """Step i: scores, their weights, and the weighted values onto the sums."""
    m_i, l_i, acc = state
    ks, vs, full, empty = ring
    stage = i % STAGES
    mbarrier.wait(full.index(stage), i // STAGES & 1)
    # What cp.async wrote is read by the tensor cores.
    fence_async_shared()
    s = gl.zeros([ROWS, BN], gl.float32, products(BN))
    s = warpgroup_mma(q_s, ks.index(stage).permute((1, 0)), s, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, deps=(s,))
    s = s * log2_scale
    if visible is not None:
        s = gl.where(visible, s, float("-inf"))
    p, alpha, m_i, l_i = softmax_weights(s, m_i, l_i)
    acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, products(HEAD)))[:, None]
    weights = gl.convert_layout(p.to(q_s.dtype), gl.DotOperandLayout(0, products(HEAD), 2))
    acc = warpgroup_mma(weights, vs.index(stage), acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=(acc,))
    mbarrier.arrive(empty.index(stage), count=1)
    return m_i, l_i, acc


@gluon.jit
def take_range(
    i, q_s, at_bounds, m_r, bounds, state, ring, log2_scale, HEAD: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr
):  # fmt: skip
    """Its tiles as steps from i on; the step behind, and what the rows have by then."""
    begin, full_begin, full_end, end = bounds
    head, tail, partial = parts(begin, full_begin, full_end, end, BN)
    full = (tail - full_begin) // BN
    for step in range(0, full):
        state = take_tile(i + step, q_s, None, state, ring, log2_scale, HEAD, BN, STAGES)
    i += full
    lo, hi = fetch(at_bounds, m_r), fetch(at_bounds + 1, m_r)
    n = gl.arange(0, BN, gl.SliceLayout(0, products(BN)))
    for step in range(0, partial):
        at, stop = partial_step(step, head, begin, full_begin, tail, end, BN)
        state = take_tile(i + step, q_s, visible_in(lo, hi, at + n, stop), state, ring, log2_scale, HEAD, BN, STAGES)
    return i + partial, state


@gluon.jit
def take(
    half: gl.constexpr, tensors, rows, local, others, ring, log2_scale,
    GLOBAL: gl.constexpr, HEAD: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The tiles of both ranges for 64 rows from `first` on; what becomes of these."""
    p_q, q_r, p_bounds, out, out_r, lse, qs = tensors
    first, last = rows
    first = first + half * ROWS
    # [ROWS, HEAD]
    r = first + gl.arange(0, ROWS, gl.SliceLayout(1, wide_rows(HEAD)))
    d = gl.arange(0, HEAD, gl.SliceLayout(0, wide_rows(HEAD)))
    b_q = gl.load(p_q + r.to(gl.int64)[:, None] * q_r + d[None, :], mask=(r < last)[:, None], other=0.0)
    q_s = qs.index(half)
    q_s.store(b_q)
    fence_async_shared()

    # [ROWS]
    r = first + gl.arange(0, ROWS, gl.SliceLayout(1, products(BN)))
    m_r = r < last
    at_bounds = p_bounds + r.to(gl.int64) * 4
    m_i = gl.full([ROWS], LOWEST, gl.float32, gl.SliceLayout(1, products(BN)))
    l_i = gl.full([ROWS], 0.0, gl.float32, gl.SliceLayout(1, products(BN)))
    state = m_i, l_i, gl.zeros([ROWS, HEAD], gl.float32, products(HEAD))

    i, state = take_range(0, q_s, at_bounds, m_r, local, state, ring, log2_scale, HEAD, BN, STAGES)
    if GLOBAL:
        i, state = take_range(i, q_s, at_bounds + 2, m_r, others, state, ring, log2_scale, HEAD, BN, STAGES)

    m_i, l_i, acc = state
    factor, b_lse = softmax_total(m_i, l_i)
    gl.store(lse + r, b_lse, mask=m_r)
    o = acc * gl.convert_layout(factor, gl.SliceLayout(1, products(HEAD)))[:, None]
    r = first + gl.arange(0, ROWS, gl.SliceLayout(1, products(HEAD)))
    d = gl.arange(0, HEAD, gl.SliceLayout(0, products(HEAD)))
    gl.store(out + r.to(gl.int64)[:, None] * out_r + d[None, :], o.to(q_s.dtype), mask=(r < last)[:, None])


@gluon.jit(do_not_specialize=VARYING)
def block_sparse_hopper_kernel(
    q, k, v, global_k, global_v, k_rows, v_rows, layout, out, lse,
    scale, queries, keys, heads, group, samples, blocks, global_keys,
    GLOBAL: gl.constexpr, WHOLE: gl.constexpr, HEAD: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr,
    HALVES: gl.constexpr,
):  # fmt: skip
    """A program: 64 rows, or twice as many, of one tile for one head. k_rows, v_rows: all samples' rows of all heads, where they
    stand so, for the copy engine (WHOLE)."""
    h, b, sample, tile, first, last = query_block(layout, heads, samples, blocks, ROWS * HALVES)
    begin, full_begin, full_end, end, _ = local_range(layout, tile, b, keys)
    g_begin, g_full_begin, g_full_end, g_end = 0, 0, 0, 0
    if GLOBAL:
        g_begin, g_full_begin, g_full_end, g_end, _ = global_range(layout, tile, b, global_keys)
    if first >= last:
        full_begin, full_end, end = begin, begin, begin
        g_full_begin, g_full_end, g_end = g_begin, g_begin, g_begin
    local = begin, full_begin, full_end, end
    others = g_begin, g_full_begin, g_full_end, g_end
    kv = h // group
    p_local = kv_head(k, v, b, kv)
    p_global = global_head(k, v, global_k, global_v, b, kv)
    GATHER: gl.constexpr = global_k is None
    index = layout.bounds
    if GLOBAL and GATHER:
        index = layout.global_index + b * layout.index_b

    dtype: gl.constexpr = q.p.dtype.element_ty
    shared: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BN, HEAD], dtype)
    qs = gl.allocate_shared_memory(dtype, [HALVES, ROWS, HEAD], shared)
    ks = gl.allocate_shared_memory(dtype, [STAGES, BN, HEAD], shared)
    vs = gl.allocate_shared_memory(dtype, [STAGES, BN, HEAD], shared)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=32 * BRINGING)
        mbarrier.init(empty.index(stage), count=HALVES)
    ring = ks, vs, full, empty

    p_q = q.p + b * q.b + h * q.h
    p_bounds = layout.bounds + sample * queries * 4
    p_out = out + (b * queries * heads + h) * HEAD
    p_lse = lse + (b * heads + h) * queries
    row, column = (b * keys).to(gl.int32), (kv * HEAD).to(gl.int32)
    whole = k_rows, v_rows, row, column
    tensors = p_q, q.r, p_bounds, p_out, heads * HEAD, p_lse, qs
    rows = first, last
    log2_scale = scale * LOG2_E
    # What is written out at a call stays a constant.
    if HALVES == 2:
        gl.warp_specialize(
            [
                (take, (0, tensors, rows, local, others, ring, log2_scale, GLOBAL, HEAD, BN, STAGES)),
                (take, (1, tensors, rows, local, others, ring, log2_scale, GLOBAL, HEAD, BN, STAGES)),
                (
                    bring,
                    (
                        whole, p_local, p_global, index, local, others, ring,
                        GLOBAL, GATHER, WHOLE, HEAD, BN, STAGES,
                    ),
                ),
            ],
            [4, BRINGING],
            [224, 64],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (take, (0, tensors, rows, local, others, ring, log2_scale, GLOBAL, HEAD, BN, STAGES)),
                (
                    bring,
                    (
                        whole, p_local, p_global, index, local, others, ring,
                        GLOBAL, GATHER, WHOLE, HEAD, BN, STAGES,
                    ),
                ),
            ],
            [BRINGING],
            [64],
        )  # fmt: skip
