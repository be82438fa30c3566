"""BufferedCache beside transformers' DynamicCache: the same rows after everything that generation does to a cache."""

from collections.abc import Callable
from copy import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from longreel._transformers import with_cache
from longreel.cache import BufferedCache

CONFIG = LlamaConfig(
    vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.3, eos_token_id=None, pad_token_id=0,
)  # fmt: skip

pytestmark = pytest.mark.fast


def rows(count: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 2, count, 8), torch.randn(batch, 2, count, 8)


def add(cache: Any, count: int, batch: int = 2) -> None:
    generator = torch.Generator().manual_seed(count)
    for layer in range(2):
        cache.update(*torch.randn(2, batch, 2, count, 8, generator=generator), layer)


def crop(cache: Any) -> None:
    cache.crop(-3)
    add(cache, 5)


def beams(cache: Any) -> None:
    cache.batch_repeat_interleave(2)
    add(cache, 1, 4)
    cache.reorder_cache(torch.tensor([1, 0, 3, 3]))
    add(cache, 1, 4)


def fewer(cache: Any) -> None:
    cache.batch_select_indices(torch.tensor([1]))
    add(cache, 4, 1)


def again(cache: Any) -> None:
    cache.reset()
    add(cache, 6)


@pytest.mark.parametrize("capacity", [0, 8, 100])
@pytest.mark.parametrize("step", [crop, beams, fewer, again])
def test_the_rows_of_a_dynamic_cache(step: Callable[[Any], None], capacity: int) -> None:
    caches: tuple[Any, Any] = DynamicCache(config=CONFIG), BufferedCache(CONFIG, capacity)
    for cache in caches:
        for count in (7, 1, 1, 20):
            add(cache, count)
        step(cache)
        add(cache, 2, cache.layers[0].keys.shape[0])
    theirs, ours = caches
    assert ours.get_seq_length() == theirs.get_seq_length()
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.values, b.values)


def test_rows_are_written_once() -> None:
    cache: Any = BufferedCache(CONFIG, 12)
    add(cache, 4)
    place = cache.layers[0].keys.data_ptr()
    for _ in range(8):
        add(cache, 1)
    assert cache.layers[0].keys.data_ptr() == place
    add(cache, 1)
    assert cache.layers[0].keys.data_ptr() != place
    assert cache.get_seq_length() == 13


def test_what_a_copy_gets_stays_its_own() -> None:
    cache: Any = BufferedCache(CONFIG, 20)
    add(cache, 4)
    layer = cache.layers[0]
    other = copy(layer)
    mine, theirs = rows(2), rows(2)
    other.update(*theirs)
    layer.update(*mine)
    assert torch.equal(other.keys[..., 4:, :], theirs[0])
    assert torch.equal(layer.keys[..., 4:, :], mine[0])
    assert torch.equal(layer.keys[..., :4, :], other.keys[..., :4, :])


def test_a_copy_keeps_its_rows() -> None:
    cache: Any = BufferedCache(CONFIG, 20)
    add(cache, 6)
    layer = cache.layers[0]
    other = copy(layer)
    before = other.keys.clone()
    layer.crop(-3)
    layer.update(*rows(3))
    assert torch.equal(other.keys, before)


@pytest.mark.parametrize("shape", [(1, 2, 3, 8), (2, 1, 3, 8), (2, 2, 3, 1)])
def test_rows_of_another_shape(shape: tuple[int, ...]) -> None:
    cache: Any = BufferedCache(CONFIG, 20)
    add(cache, 6)
    with pytest.raises(ValueError, match=r"holds keys \[2, 2, 6, 8\] torch.float32; given"):
        cache.update(torch.zeros(shape), torch.zeros(shape), 0)
    with pytest.raises(ValueError, match="float64"):
        cache.update(*torch.zeros(2, 2, 2, 3, 8, dtype=torch.float64), 0)
    assert cache.get_seq_length() == 6


def test_gradients_pass() -> None:
    cache: Any = BufferedCache(CONFIG, 20)
    keys, values = (t.requires_grad_() for t in rows(3))
    cache.update(keys, values, 0)
    more = rows(2)
    held, _ = cache.update(*more, 0)
    held.sum().backward()
    assert keys.grad is not None
    assert torch.equal(keys.grad, torch.ones_like(keys))


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_generate(beams: int) -> None:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(CONFIG).eval()
    ids = torch.randint(1, 40, (2, 9))
    wanted = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **with_cache(DynamicCache(config=CONFIG)), **wanted)
    assert torch.equal(model.generate(ids, **with_cache(BufferedCache(CONFIG, 15)), **wanted), expected)
