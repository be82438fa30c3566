"""The ops, a line each. The contract test, the benchmarks, `explain` and `longreel doctor` are driven from here."""

from longreel.ops._adaptive_pool import OP as adaptive_pool
from longreel.ops._block_sparse_attention import OP as block_sparse_attention
from longreel.ops._compress_frames import OP as compress_frames
from longreel.ops._context_attention import OP as context_attention
from longreel.ops._qformer_attention import OP as qformer_attention
from longreel.ops._vst_append_ import OP as vst_append_
from longreel.ops._vst_attention import OP as vst_attention
from longreel.ops._vst_rotate import OP as vst_rotate
from longreel.ops.op import Op

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        compress_frames,
        context_attention,
        adaptive_pool,
        block_sparse_attention,
        qformer_attention,
        vst_rotate,
        vst_attention,
        vst_append_,
    )
}
