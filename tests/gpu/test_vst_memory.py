"""Video-XL's memory on a card: a step of text that waits for nothing, and one that is captured once and replayed."""

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config

from longreel import VideoLayout
from longreel.cache import VSTCache
from longreel.testing.determinism import same_bits

LAYERS, HEADS, KV_HEADS, WIDTH, CHUNK = 2, 28, 4, 128, (1440, 8)


def rows(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(seed)
    made = [
        torch.randn(1, count, heads, WIDTH, generator=generator, device="cuda").bfloat16()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    return made[0], made[1], made[2]


def watched() -> VSTCache:
    """Three chunks; what stands for a decoder are random projections."""
    config = Qwen2Config(
        hidden_size=HEADS * WIDTH, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, num_hidden_layers=LAYERS
    )
    cache = VSTCache(config, capacity=1000, text_capacity=64)

    def decoder(*, inputs_embeds: Tensor, past_key_values: VSTCache, **_: Any) -> None:
        for layer in range(LAYERS):
            past_key_values.attend(layer, *rows(inputs_embeds.shape[1], layer), backend="triton")

    with torch.no_grad():
        for _ in range(3):
            segments = cache.chunks([CHUNK])
            tokens = VideoLayout.vst(ratio=[CHUNK]).length
            cache.append(decoder, torch.zeros(1, tokens, 1, device="cuda", dtype=torch.bfloat16), segments)
    return cache


def step(cache: VSTCache, given: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    with torch.no_grad():
        return torch.stack([cache.attend(layer, *given[layer], backend="triton") for layer in range(LAYERS)])


def test_a_step_of_text_waits_for_nothing() -> None:
    cache, given = watched().fork(), [rows(1, 10 + layer) for layer in range(LAYERS)]
    step(cache, given)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step(cache, given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_chunk_behind_others_waits_for_nothing() -> None:
    """The layer's part of a chunk step; its tables and its plan are made before, on the host."""
    cache = watched()
    made = cache._append_of(
        torch.zeros(1, VideoLayout.vst(ratio=[CHUNK]).length, 1, device="cuda", dtype=torch.bfloat16),
        cache.chunks([CHUNK]),
    )
    cache._step, given = made, [rows(1620, layer) for layer in range(LAYERS)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(cache, given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        cache._step = None


def test_a_step_of_text_is_captured_and_replayed() -> None:
    """The device's lengths go on with every replay; the results are those of steps one by one."""
    video = watched()
    eager, asked = video.fork(), video.fork()
    given = [[rows(1, 100 * i + layer) for layer in range(LAYERS)] for i in range(6)]
    expected = [step(eager, each) for each in given]
    held = [tuple(t.clone() for t in each) for each in given[0]]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = [step(asked, held)]
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = step(asked, held)
    for each in given[1:]:
        for mine, new in zip(held, each, strict=True):
            for to, from_ in zip(mine, new, strict=True):
                to.copy_(from_)
        graph.replay()
        got.append(made.clone())
    for ours, theirs in zip(got, expected, strict=True):
        assert same_bits(ours, theirs)
