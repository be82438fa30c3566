"""use_layout: in threads, in tasks, and under torch.compile."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from pairs import CLOSE, pair_of, some_ids
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, StableLmConfig, StableLmForCausalLM

import longreel
from longreel import VideoLayout
from longreel.layout.context import in_force

LAYOUT = VideoLayout.voco(frames=1, prefix=1, vision=8, voco=1, text=10)
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
