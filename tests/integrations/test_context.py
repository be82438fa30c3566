"""use_layout: in threads, in tasks, and under torch.compile."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from pairs import CLOSE, SIZES, pair_of, some_ids
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    StableLmConfig,
    StableLmForCausalLM,
)

import longreel
from longreel import VideoLayout
from longreel.layout import text_steps
from longreel.layout.context import in_force

LAYOUT = VideoLayout.voco(frames=1, prefix=1, vision=8, voco=1, text=10)
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 8,
          "patch_size": 2}  # fmt: skip
OTHER = VideoLayout.voco(frames=1, prefix=2, vision=5, voco=3, text=10)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return pair_of(LlamaForCausalLM, LlamaConfig)[0]


def logits(model: Any, ids: Tensor, **given: Any) -> Tensor:
    with torch.no_grad():
        return model(ids, **given).logits


def test_threads_take_the_layout_of_the_block_that_starts_them(model: PreTrainedModel) -> None:
    """Also where they run after it, and not where another thread has a block of its own."""
    ids, found = some_ids(1, LAYOUT.length), {}
    expected, causal = logits(model, ids, video_layout=LAYOUT), logits(model, ids)
    assert not torch.allclose(expected, causal, atol=1e-3)
    opened, ended = threading.Event(), threading.Event()

    def late() -> None:
        ended.wait()
        found["late"] = logits(model, ids)

    def apart() -> None:
        opened.wait()
        found["apart"] = logits(model, ids)

    threads = [threading.Thread(target=apart)]
    threads[0].start()
    with longreel.use_layout(LAYOUT):
        threads += [
            threading.Thread(target=lambda: found.update(here=logits(model, ids))),
            threading.Thread(target=late),
        ]
        for thread in threads[1:]:
            thread.start()
        opened.set()
        threads[0].join()
    ended.set()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(found, {"apart": causal, "here": expected, "late": expected}, atol=0, rtol=0)


def test_a_pool_takes_the_layout_of_whoever_submits() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(in_force).result().layout is None
        with longreel.use_layout(LAYOUT):
            assert pool.submit(in_force).result().layout is LAYOUT
            with longreel.use_layout(None):
                assert pool.submit(in_force).result().layout is None
        assert pool.submit(in_force).result().layout is None
    with longreel.use_layout(LAYOUT), ThreadPoolExecutor(1) as started_inside:
        started_inside.submit(int).result()
        with longreel.use_layout(OTHER):
            assert started_inside.submit(in_force).result().layout is OTHER


def test_tasks_have_a_layout_each() -> None:
    async def task(layout: VideoLayout, seen: list[Any]) -> None:
        with longreel.use_layout(layout):
            await asyncio.sleep(0)
            seen.append(in_force().layout)
            seen.append((await asyncio.to_thread(in_force)).layout)

    async def both() -> tuple[list[Any], list[Any]]:
        first: list[Any] = []
        second: list[Any] = []
        await asyncio.gather(task(LAYOUT, first), task(OTHER, second))
        return first, second

    assert asyncio.run(both()) == ([LAYOUT] * 2, [OTHER] * 2)


@pytest.mark.parametrize(
    ("layout", "error", "line"),
    [
        ("causal", TypeError, "layout is a str; allowed: VideoLayout"),
        (torch.ones(20, 20), TypeError, "layout is a Tensor; allowed"),
        (VideoLayout.from_cu_seqlens(torch.tensor([0, 20]), 20, causal=True), ValueError, "lengths on a device"),
        (text_steps(None, 20, "cpu").at(0), ValueError, "of a step"),  # type: ignore[union-attr]
    ],
    ids=["str", "tensor", "lengths", "step"],
)
def test_what_is_no_layout_of_a_model_is_refused(
    layout: Any, error: type[Exception], line: str, model: PreTrainedModel
) -> None:
    with pytest.raises(error, match=line), longreel.use_layout(layout):
        pass
    with pytest.raises(error, match=line):
        logits(model, some_ids(1, 20), video_layout=layout)


def test_fullgraph_with_a_planned_layout(model: PreTrainedModel) -> None:
    """A graph is of the layout that it was traced under, and knows when another is in force."""
    ids = some_ids(1, LAYOUT.length)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for layout in (LAYOUT, OTHER, LAYOUT):
        with longreel.use_layout(layout.to("cpu")):
            got = logits(compiled, ids, use_cache=False)
        torch.testing.assert_close(got, logits(model, ids, video_layout=layout), **CLOSE)
    found = {}
    with longreel.use_layout(OTHER.to("cpu")):
        thread = threading.Thread(target=lambda: found.update(x=logits(compiled, ids, use_cache=False)))
        thread.start()
    thread.join()
    torch.testing.assert_close(found["x"], logits(model, ids, video_layout=OTHER), **CLOSE)
    got = logits(compiled, ids, use_cache=False, video_layout=LAYOUT.to("cpu"))
    torch.testing.assert_close(got, logits(model, ids, video_layout=LAYOUT), **CLOSE)


def test_fullgraph_without_a_layout_is_refused(model: PreTrainedModel) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="positions are not read: pass a planned layout"):
        logits(compiled, some_ids(1, LAYOUT.length), use_cache=False)


def test_a_keyword_that_a_model_drops_is_refused() -> None:
    """StableLM's layers take any keyword and hand none on: `use_layout` reaches them."""
    model = pair_of(StableLmForCausalLM, StableLmConfig)[0]
    ids = some_ids(1, LAYOUT.length)
    for asked in (model, model.model, StableLmForCausalLM(model.config)):
        with torch.no_grad(), pytest.raises(ValueError, match=r"does not hand video_layout on .*use_layout"):
            asked(ids, video_layout=LAYOUT)
    causal = logits(model, ids)
    with longreel.use_layout(LAYOUT):
        assert not torch.allclose(logits(model, ids), causal, atol=1e-3)


def test_compiled_positions_that_begin_anew_are_documents(model: PreTrainedModel) -> None:
    """With a cache, where transformers itself does not look for them."""
    torch._dynamo.reset()
    compiled, ids = torch.compile(model, backend="eager"), some_ids(1, 9)
    packed = VideoLayout.packed([VideoLayout.causal(5), VideoLayout.causal(4)])
    for at, layout in ((torch.arange(9)[None], None), (torch.arange(9)[None] % 5, packed)):
        got = logits(compiled, ids, position_ids=at, use_cache=True)
        torch.testing.assert_close(got, logits(model, ids, position_ids=at, video_layout=layout), **CLOSE)


def test_a_compiled_task_of_an_event_loop_is_refused(model: PreTrainedModel) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")

    async def run() -> None:
        with longreel.use_layout(LAYOUT.to("cpu")):
            logits(compiled, some_ids(1, LAYOUT.length), use_cache=False)

    with pytest.raises(Exception, match="in a task of an event loop"):
        asyncio.run(run())


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_model_recomputes_under_its_layout(model: PreTrainedModel, reentrant: bool) -> None:
    """Also where the backward pass runs behind the block."""
    embeds = torch.randn(1, LAYOUT.length, model.config.hidden_size, generator=torch.Generator().manual_seed(0))

    def slope(run: Any, embeds: Tensor) -> Tensor:
        leaf = embeds.clone().requires_grad_()
        with longreel.use_layout(LAYOUT):
            loss = run(leaf).square().mean()
        (grad,) = torch.autograd.grad(loss, leaf) if not reentrant else (None,)
        if grad is None:
            loss.backward()
            grad = leaf.grad
        assert grad is not None
        return grad

    def forward(embeds: Tensor) -> Tensor:
        return model(inputs_embeds=embeds, use_cache=False).logits

    got = slope(lambda e: checkpoint(forward, e, use_reentrant=reentrant), embeds)
    torch.testing.assert_close(got, slope(forward, embeds), atol=0, rtol=0)
    causal = embeds.clone().requires_grad_()
    forward(causal).square().mean().backward()
    assert causal.grad is not None
    assert not torch.allclose(got, causal.grad, atol=1e-4)


def test_compiled_blocks_of_a_model_are_refused() -> None:
    """Gemma 3's picture tokens see later ones: a planned layout would drop that."""
    sizes = {name: size for name, size in SIZES.items() if name != "initializer_range"}
    text = sizes | {"head_dim": 8, "sliding_window": 64, "layer_types": ["full_attention"] * 2, "num_hidden_layers": 2}
    config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, image_token_id=90)
    model = Gemma3ForConditionalGeneration._from_config(
        config, attn_implementation={"text_config": "longreel", "vision_config": "eager"}
    ).eval()
    ids = some_ids(1, 13)
    ids[0, 3:7] = 90
    given = {"pixel_values": torch.randn(1, 3, 8, 8), "token_type_ids": (ids == 90).long()}
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    with (
        longreel.use_layout(VideoLayout.causal(13).to("cpu")),
        pytest.raises(Exception, match=r"this model's (own )?mask"),
    ):
        logits(compiled, ids, use_cache=False, **given)
