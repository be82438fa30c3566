"""Frames through a vision tower."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from longreel.integrations.lazy import TOWERS
from longreel.measure.machine import cpu_isa
from longreel.models.cost import TOWER_FRAMES

# CLIP's, which every system here uses.
_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


# Widths of heads and the instruction set with which longreel's attention was measured faster than SDPA (docs/run.md).
_FASTER, _ISA = (32, 64), "avx512_bf16"


def choose_attention(tower: Any) -> None:
    """longreel's attention in place of SDPA where it is measured faster, and a frame's bits are the same beside any others.

    To be called when the tower has its device and dtype. In float32 it is faster too, but bits depend on a frame's neighbours.
    """
    like, head = placed(tower), tower.config.hidden_size // tower.config.num_attention_heads
    narrow = like.device.type == "cpu" and like.dtype is torch.bfloat16
    if narrow and head in _FASTER and cpu_isa() == _ISA:
        tower.set_attn_implementation(TOWERS)


def placed(module: nn.Module) -> Tensor:
    """A floating tensor of `module`, whose device and dtype are where and in what it computes; not on meta if another one is."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    return next((t for t in tensors if not t.is_meta), tensors[0])


class WithTower:
    """What a system's model says of its vision tower."""

    tower: Any

    @property
    def device(self) -> torch.device:
        """Where the tower is, and what it takes its input from."""
        return placed(self.tower).device

    @property
    def dtype(self) -> torch.dtype:
        """What the tower computes in, and its features have."""
        return placed(self.tower).dtype

    def tower_tokens(self, pixels: Tensor, count: int) -> Tensor:
        """uint8 RGB [F, image, image, 3] -> the last `count` tokens that the tower makes of each [F, count, C]; no gradient."""
        shape = len(pixels), count, self.tower.config.hidden_size
        return encode(self.tower, pixels, torch.empty(shape, dtype=self.dtype, device=self.device))


@torch.no_grad()
def encode(tower: Any, pixels: Tensor, out: Tensor) -> Tensor:
    """uint8 RGB [F, image, image, 3] -> the last rows of what `tower` makes of them, as many as `out` [F, rows, C] has.

    Raises:
        TypeError, ValueError: pixels of another dtype or shape.
    """
    image = tower.config.image_size
    if not isinstance(pixels, Tensor) or pixels.dtype is not torch.uint8:
        given = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
        raise TypeError(f"pixels must be a uint8 tensor, given {given}")
    if pixels.shape[1:] != (image, image, 3):
        raise ValueError(f"pixels must be [F, {image}, {image}, 3], given {list(pixels.shape)}")
    if not len(pixels):
        return out
    step = TOWER_FRAMES if out.device.type == "cpu" else len(pixels)
    for batch, place in zip(torch.split(pixels, step), torch.split(out, step), strict=True):
        # Without a name of its own: it would stand beside the next one.
        made = tower(pixel_values=normalised(batch, out.device, out.dtype)).last_hidden_state
        place.copy_(made[:, -out.shape[1] :])
        del made
    return out


@torch.no_grad()
def by_few(computed: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """What `computed` makes of every frame of [F, N, C]: on a CPU as many at a time as the tower takes, so that what is wide on
    the way is not there for all frames."""
    if features.device.type != "cpu" or len(features) <= TOWER_FRAMES:
        return computed(features)
    out: Tensor | None = None
    for begin in range(0, len(features), TOWER_FRAMES):
        made = computed(features[begin : begin + TOWER_FRAMES])
        out = made.new_empty(len(features), *made.shape[1:]) if out is None else out
        out[begin : begin + TOWER_FRAMES] = made
    assert out is not None
    return out


def normalised(pixels: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 RGB [F, h, w, 3] -> what a tower takes, [F, 3, h, w]."""
    mean, std = (torch.tensor(value, device=device) * 255 for value in (_PIXEL_MEAN, _PIXEL_STD))
    return ((pixels.to(device) - mean) / std).permute(0, 3, 1, 2).to(dtype)
