"""The arguments of the op by name, and what its launches share: keys and rows as kernels take them."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from longreel.triton_kernels.common.card import PORTABLE_SHARED, Card, card_of
from torch import Tensor

# What the interpreter stands for: few multiprocessors, so that small tests split their keys too.
INTERPRETED = Card(1 << 20, PORTABLE_SHARED, 8, wgmma=False)
# bytes of the samples of one launch; one sample takes what it takes
WORKSPACE = 256 << 20
# what changes with the length of a video or the number of samples compiles nothing anew
VARYING = ("keys", "blocks", "rows", "sets", "samples", "splits", "frames", "frame_size")


class QFormerCall(NamedTuple):
    """query [B or 1, Nq, H D], x [B, S, C], w_k and w_v [H D, C], b_v [H D] or None, key_mask bool [B, S] or None, frame_table
    [T, C] or None, whose frames have `frame_size` keys each.

    A row is one query of one head, row n H + h: R = Nq H rows a sample, in the order of [Nq, H].
    """

    query: Tensor
    x: Tensor
    w_k: Tensor
    w_v: Tensor
    b_v: Tensor | None
    key_mask: Tensor | None
    frame_table: Tensor | None
    frame_size: int
    heads: int
    scale: float

    @property
    def queries(self) -> int:
        return self.query.shape[1]

    @property
    def rows(self) -> int:
        return self.queries * self.heads

    @property
    def channels(self) -> int:
        return self.x.shape[2]

    @property
    def card(self) -> Card:
        return card_of(self.x, INTERPRETED)

    def samples(self, begin: int, end: int) -> "QFormerCall":
        """The same of samples begin..end; key_mask in bytes of its own, contiguous: loads of any samples are aligned alike."""
        query = self.query if self.query.shape[0] == 1 else self.query[begin:end]
        mask = None
        if self.key_mask is not None:
            mask = self.key_mask[begin:end].to(torch.uint8, memory_format=torch.contiguous_format)
        return self._replace(query=query, x=self.x[begin:end], key_mask=mask)


class Keys(NamedTuple):
    """[B, S, C]: pointer and strides; mask: uint8 [B, S], contiguous, not 0 for a key that is read, or None."""

    p: Any
    b: Any
    key: Any
    channel: Any
    mask: Any


class Operand(NamedTuple):
    """fp32 rows [sets, R, C] as products with keys take them: hi, of the keys' dtype, times unit [sets, R] (None: 1); lo is what
    rounding took off, where it is asked for."""

    hi: Any
    lo: Any
    unit: Any


def keys_of(x: Tensor, mask: Tensor | None = None) -> Keys:
    """`mask` as `QFormerCall.samples` makes it."""
    return Keys(x, *x.stride(), mask)


def operand_of(rows: Tensor, dtype: torch.dtype, exactly: bool = False) -> Operand:
    """`rows` fp32 [sets, R, C], contiguous. `exactly`: for sums in which the same row meets many keys."""
    if dtype == torch.float32:
        return Operand(rows, None, None)
    unit = None
    if dtype == torch.float16:
        # A power of two that brings the largest element to 1/2 .. 1; 1 for a row of zeros.
        unit = torch.exp2(rows.abs().amax(-1).log2().ceil().clamp(-100, 100))
        rows = rows / unit[..., None]
    hi = rows.to(dtype)
    return Operand(hi, (rows - hi).to(dtype) if exactly else None, unit)


@triton.jit
def keys_at(x, b, n, keys):
    """[BN] Where keys n of sample b stand, and which of them exist and are read."""
    m_n = n < keys
    if x.mask is not None:
        m_n &= tl.load(x.mask + b * keys + n, mask=m_n, other=0) != 0
    return x.p + b * x.b + n.to(tl.int64) * x.key, m_n


@triton.jit
def read_keys(p_n, step, c, m_n, m_c, UPCAST: tl.constexpr):
    """[BN, BC] Channels c of the keys at `p_n` [BN]; 0 where a key or a channel is not there."""
    b_x = tl.load(p_n[:, None] + (c.to(tl.int64) * step)[None, :], mask=m_n[:, None] & m_c[None, :], other=0.0)
    if UPCAST:
        b_x = b_x.to(tl.float32)
    return b_x


@triton.jit
def nearest(x, UPCAST: tl.constexpr):
    """fp32 as it is to be stored: the interpreter, which computes bf16 in fp32, cuts off what a card rounds."""
    if UPCAST:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = bits.to(tl.float32, bitcast=True)
    return x
