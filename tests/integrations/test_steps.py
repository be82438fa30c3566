"""Decoding in transformers plans nothing anew, whatever stands before: the first step of a kind is planned, others are moved."""

from collections.abc import Callable
from copy import deepcopy
from inspect import signature
from typing import Any

import pytest
import torch
from pairs import SIZES, left_mask, pair_of, some_ids
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
)
from transformers.masking_utils import create_chunked_causal_mask

import longreel.integrations.transformers  # noqa: F401
from longreel import VideoLayout, use_layout
from longreel.cache import VoCoCache
from longreel.integrations import range_mask
from longreel.layout import planning


@pytest.fixture
def model() -> LlamaForCausalLM:
    return pair_of(LlamaForCausalLM, LlamaConfig)[0]


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is planned on the host."""
    made: list[Any] = []
    plan = planning.plan
    monkeypatch.setattr(planning, "plan", lambda *args, **named: (made.append(args), plan(*args, **named))[1])
    return made


def generated(model: Any, ids: Any, new: int, **given: Any) -> list[list[int]]:
    return model.generate(ids, **{"max_new_tokens": new, "min_new_tokens": new, "do_sample": False} | given).tolist()


def plain(model: Any, new: int) -> Any:
    return generated(model, some_ids(2, 9), new)


def left_padded(model: Any, new: int) -> Any:
    return generated(model, some_ids(2, 9), new, attention_mask=left_mask(2, 9, 4))


def beams(model: Any, new: int) -> Any:
    return generated(model, some_ids(1, 9), new, num_beams=2)


def under_a_layout(model: Any, new: int) -> Any:
    layout = VideoLayout.voco(frames=4, vision=5, voco=2, text=3, prefix=2, mode="causal")
    with use_layout(layout):
        return generated(model, some_ids(1, layout.length), new)


def under_a_batch_of_layouts(model: Any, new: int) -> Any:
    layout = VideoLayout.batch([VideoLayout.voco(frames=n, vision=5, voco=2, text=3, mode="causal") for n in (2, 3)])
    mask = torch.ones(2, layout.length, dtype=torch.long)
    mask[0, : layout.start[0]] = 0
    with use_layout(layout.to("cpu")):
        return generated(model, some_ids(2, layout.length), new, attention_mask=mask, num_beams=2)


def behind_a_video(model: Any, new: int) -> Any:
    cache = VoCoCache(model.config)
    embeds = torch.randn(1, 16, SIZES["hidden_size"])
    cache.append(model.model, embeds, [("vision", 6), ("voco", 2)] * 2)
    ids = some_ids(2, 5)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    asked = cache.question(ids, mask=mask)
    return model.generate(**asked, max_new_tokens=new, min_new_tokens=new, do_sample=False).tolist()


USES = [plain, left_padded, beams, under_a_layout, under_a_batch_of_layouts, behind_a_video]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_generate_is_the_same_and_plans_a_step_once(
    use: Callable[..., Any], model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, plans: list[Any]
) -> None:
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        patch.setattr(range_mask, "step_of", lambda *_: None)
        expected = use(model, 8)
    plans.clear()
    torch.manual_seed(1)
    assert use(model, 8) == expected
    # The prompt, and the first step.
    assert len(plans) <= 3


HYBRID = ["sliding_attention", "full_attention"]
BOUNDED: dict[str, tuple[type, type, dict[str, Any]]] = {
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 6}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {"head_dim": 8, "sliding_window": 6, "layer_types": HYBRID}),
    "llama4": (
        Llama4ForCausalLM, Llama4TextConfig,
        {"intermediate_size_mlp": 48, "num_local_experts": 2, "head_dim": 8, "attention_chunk_size": 6,
         "num_experts_per_tok": 1, "layer_types": ["chunked_attention", "full_attention"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("name", list(BOUNDED))
def test_windows_and_chunks_plan_a_step_once(name: str, cache: str | None, plans: list[Any]) -> None:
    """Over caches that slide, behind left padding, across several windows and chunks."""
    if cache and name == "llama4" and "block_sequence_ids" not in signature(create_chunked_causal_mask).parameters:
        pytest.skip(
            "this transformers gives its chunked masks a keyword that they do not take: its own attention fails too"
        )
    made, config, changes = BOUNDED[name]
    model, eager = pair_of(made, config, **changes)
    ids, mask = some_ids(2, 4), left_mask(2, 4, 2)
    for given in ({}, {"attention_mask": mask}):
        expected = generated(eager, ids, 20, **given)
        plans.clear()
        assert generated(model, ids, 20, cache_implementation=cache, **given) == expected
        # The prompt and a step, of each kind of layers.
        assert len(plans) <= 2 * len(set(changes.get("layer_types", ["one"])))


@pytest.mark.parametrize("name", list(BOUNDED))
def test_windows_and_chunks_under_a_layout_plan_a_step_once(
    name: str, plans: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens are those of every step planned anew: behind text, packed documents, left padding."""
    made, config, changes = BOUNDED[name]
    model = pair_of(made, config, **changes)[0]
    padded = VideoLayout.batch([VideoLayout.causal(4), VideoLayout.causal(2)], side="left")
    given = [(VideoLayout.causal(4), None), (padded, left_mask(2, 4, 2)), (padded.to("cpu"), left_mask(2, 4, 2))]
    if "attention_chunk_size" not in changes:
        given.append((VideoLayout.packed([VideoLayout.causal(3), VideoLayout.causal(2)]), None))
    for layout, mask in given:
        rows = 5 if mask is None and layout.length == 5 else 4
        asked = {"new": 20, "ids": some_ids(2, rows)} | ({} if mask is None else {"attention_mask": mask})
        with use_layout(layout):
            with monkeypatch.context() as anew:
                anew.setattr(range_mask, "bounded_text_step_of", lambda *_: None)
                expected = generated(model, **asked)
            plans.clear()
            assert generated(model, **asked) == expected
        # The prompt and a step, of each kind of layers, and steps before the window is reached.
        assert len(plans) <= 3 * len(set(changes.get("layer_types", ["one"])))


def flash_both_ways(model: Any, layout: Any, patch: pytest.MonkeyPatch, plans: list[Any], **given: Any) -> int:
    """How much is planned while flash attention generates what it does where every step is planned anew."""
    model = deepcopy(model).bfloat16()
    with use_layout(layout, backend="flash"):
        with patch.context() as anew:
            for name in ("step_of", "bounded_step_of"):
                anew.setattr(range_mask, name, lambda *_: None)
            expected = generated(model, new=16, **given)
        plans.clear()
        assert generated(model, new=16, **given) == expected
    return len(plans)


@pytest.mark.parametrize("name", list(BOUNDED))
def test_flash_attention_plans_a_step_once(name: str, plans: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made, config, changes = BOUNDED[name]
    # Shorter than the window: flash attention computes none of several rows.
    model, ids = pair_of(made, config, **changes)[0], some_ids(2, 5)
    assert flash_both_ways(model, None, monkeypatch, plans, ids=ids) <= 2 * len(
        set(changes.get("layer_types", ["one"]))
    )


@pytest.mark.parametrize("kind", ["text", "layouts", "planned"])
def test_flash_attention_behind_a_layout_plans_a_step_once(
    kind: str, model: LlamaForCausalLM, plans: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = VideoLayout.batch([VideoLayout.voco(frames=n, vision=5, voco=2, text=3, mode="causal") for n in (3, 4)])
    ids, mask = some_ids(2, whole.length), torch.ones(2, whole.length, dtype=torch.long)
    if kind == "text":
        assert flash_both_ways(model, None, monkeypatch, plans, ids=ids) <= 2
        return
    mask[0, : whole.start[0]] = 0
    layout = whole.to("cpu") if kind == "planned" else whole
    assert flash_both_ways(model, layout, monkeypatch, plans, ids=ids, attention_mask=mask) <= 2


class NothingRead(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in func.name(), "the host reads a tensor"
        return func(*args, **(kwargs or {}))


def test_a_step_over_a_cache_of_fixed_size_reads_nothing(model: LlamaForCausalLM) -> None:
    """What a captured graph needs: the length is a tensor, and stays one."""
    ids = some_ids(1, 9)
    with torch.no_grad():
        cache = StaticCache(config=model.config, max_cache_len=20)
        expected = model(ids).logits[:, 5:]
        model(ids[:, :5], past_key_values=cache)
        rows = []
        for i in range(5, 9):
            given = {"past_key_values": cache, "position_ids": torch.tensor([[i]])}
            with NothingRead():
                rows.append(model(ids[:, i : i + 1], **given).logits)
    torch.testing.assert_close(torch.cat(rows, 1), expected, rtol=1e-5, atol=1e-5)
