"""A 2-D attention mask: where its padding stands."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from longreel.integrations.packed import told
from longreel.layout import VideoLayout


@dataclass(frozen=True)
class Gap:
    """Questions of several lengths over one cache: rows begin .. ends[b] of sample b are padding, all others real."""

    begin: int
    ends: tuple[int, ...]

    def layout(self, keys: int) -> VideoLayout:
        """Of all `keys` rows: what the cache holds is one frame to them."""
        samples = (
            VideoLayout.of(
                [("voco", self.begin), ("padding", end - self.begin), ("text", keys - end)], attention="independent"
            )
            for end in self.ends
        )
        return VideoLayout.batch(list(samples))

    @lru_cache(maxsize=16)  # noqa: B019 (a value, and few)
    def shortest(self) -> VideoLayout:
        """Up to the first real row of every sample; the same object each time, behind which steps are planned once."""
        return self.layout(max(self.ends) + 1)


def padding(mask: Tensor) -> Tensor | Gap | None:
    """Of a bool mask [B, keys] the left padding int32 [B], or the gap; None where no real row meets any. One read by the host.

    Raises:
        ValueError: there are zeros elsewhere.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError("under torch.compile the padding is part of the layout: pass a planned layout and no mask")
    if not told(mask, "an attention_mask"):
        return None
    real = mask.to("cpu", torch.bool)
    if bool(real.all()):
        return None
    count = real.sum(1)
    # [B], first real key; all of them where there is none
    start = torch.where(count > 0, real.to(torch.uint8).argmax(1), real.shape[1])
    key = torch.arange(real.shape[1])
    broken = (real != ((key >= start[:, None]) & (key < (start + count)[:, None]))).any(1).nonzero().flatten()
    if not len(broken):
        return start.to(mask.device, torch.int32) if bool(start.any()) else None
    # The first zero, and where the zeros end if they stand together.
    begin = int((~real).to(torch.uint8).argmax(1)[broken[0]])
    ends = begin + real.shape[1] - count
    if not torch.equal(real, (key < begin) | (key >= ends[:, None])):
        raise ValueError(
            f"the attention mask of sample {int(broken[0])} has zeros between ones; allowed: padding on the left (as"
            " generate needs it), on the right, or in all samples from the row on where a cache ends"
        )
    return Gap(begin, tuple(ends.tolist()))


def spans(real: Tensor | None, batch: int, dropped: int, end: int) -> list[tuple[int, int]]:
    """First and last + 1 real key of every sample: rows may attend to later ones, padding on the right too."""
    if real is None:
        return [(0, end)] * batch
    real = real[:, dropped : dropped + end].to("cpu", torch.bool)
    count, first = real.sum(1), real.to(torch.uint8).argmax(1)
    return list(zip(first.tolist(), (first + count).tolist(), strict=True))


def check_same(own: Tensor, given: Tensor | None, end: int) -> None:
    """Raise ValueError where a layout's left padding is not that of the mask that was given with it, of `end` rows."""
    for b, rows in enumerate([] if given is None else given.tolist()):
        if rows != min(layout := own.tolist()[b % len(own)], end):
            raise ValueError(
                f"the attention mask pads {rows} rows on the left of sample {b}, the layout {layout}:"
                " VideoLayout.batch pads layouts as a batch is padded"
            )
