"""What a configuration asks of the device that a tensor is on."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

PORTABLE_SHARED = 99 * 1024  # what a block may have on every card from compute capability 8.0 on
LARGE_SHARED = 227 * 1024  # what a block may have on Hopper and later data-centre cards


@dataclass(frozen=True)
class Card:
    """Bytes of L2 and of a block's opt-in shared memory, multiprocessors; `wgmma`: 16-bit products read all of their stages
    from shared memory (compute capability 9 and 10), where other products hold one in registers."""

    l2: int
    shared: int
    multiprocessors: int
    wgmma: bool


_assumed: Card | None = None


@contextmanager
def assumed(card: Card) -> Iterator[None]:
    """Every tensor is on `card` meanwhile: what another card would run, and what is compiled without one."""
    global _assumed
    before, _assumed = _assumed, card
    try:
        yield
    finally:
        _assumed = before


def card_of(tensor: Tensor, interpreted: Card) -> Card:
    """The card of `tensor`; `interpreted` for a tensor of the interpreter's."""
    if _assumed is not None:
        return _assumed
    return _card(tensor.device.index) if tensor.is_cuda else interpreted


@functools.lru_cache
def _card(index: int) -> Card:
    properties = torch.cuda.get_device_properties(index)
    return Card(
        properties.L2_cache_size,
        properties.shared_memory_per_block_optin,
        properties.multi_processor_count,
        wgmma=properties.major in (9, 10),
    )
