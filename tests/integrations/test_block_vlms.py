"""Models whose picture tokens see one another: logits, answers and gradients as eager attention's dense masks give them."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from tiny_block_vlms import MODELS, kinds_of, padded
from tiny_vlms import made

import longreel.integrations.range_mask as range_mask

CLOSE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any, dict[str, Any]]:
    eager, given = made(MODELS[request.param])
    ours = deepcopy(eager)
    ours.set_attn_implementation({"text_config": "longreel"})
    assert ours.config.get_text_config()._attn_implementation == "longreel"
    return ours, eager, given


@torch.no_grad()
def test_logits(pair: tuple[Any, Any, dict[str, Any]]) -> None:
    ours, eager, given = pair
    expected = eager(**given).logits
    # The mask is not causal: with every token a word, rows see less.
    words = torch.full_like(given["input_ids"], int(eager.config.model_type == "paligemma"))
    causal = eager(**given | {kinds_of(given): words}).logits
    assert (expected - causal).abs().max() > 1e-2
    torch.testing.assert_close(ours(**given).logits, expected, **CLOSE)
    torch.testing.assert_close(ours(**given, logits_to_keep=1).logits, eager(**given, logits_to_keep=1).logits, **CLOSE)
    more, real = padded(given)
    torch.testing.assert_close(ours(**more).logits[real], eager(**more).logits[real], **CLOSE)


@pytest.mark.parametrize("cache", [None, "static"])
@torch.no_grad()
def test_answers(pair: tuple[Any, Any, dict[str, Any]], cache: str | None) -> None:
    ours, eager, given = pair
    for inputs in (given, padded(given)[0]):
        options: dict[str, Any] = {"max_new_tokens": 7, "do_sample": False, "cache_implementation": cache}
        assert torch.equal(ours.generate(**inputs, **options), eager.generate(**inputs, **options))


def test_training_with_checkpoints(pair: tuple[Any, Any, dict[str, Any]]) -> None:
    found = []
    for model in pair[:2]:
        model = deepcopy(model).train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        loss = model(**pair[2], labels=pair[2]["input_ids"], use_cache=False).loss
        loss.backward()
        found.append({name: w.grad for name, w in model.named_parameters() if w.grad is not None})
    assert found[0].keys() == found[1].keys()
    largest = max(grad.abs().max().item() for grad in found[1].values())
    for name, grad in found[1].items():
        scale = max(grad.abs().max().item(), largest / 100)
        torch.testing.assert_close(found[0][name] / scale, grad / scale, atol=1e-4, rtol=0, msg=name)


@torch.no_grad()
def test_each_mask_is_lowered_once(pair: tuple[Any, Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _, given = pair
    calls = []
    real = range_mask.layout_of
    monkeypatch.setattr(range_mask, "layout_of", lambda *args: calls.append(args) or real(*args))
    ours(**given)
    # Without pictures the mask is causal, and a layout of the user's own may be in force.
    calls.clear()
    words = given | {kinds_of(given): torch.full_like(given["input_ids"], int("paligemma" in ours.config.model_type))}
    words = {key: value for key, value in words.items() if key != "pixel_values"}
    words["input_ids"] = words["input_ids"].clamp(max=100)
    ours(**words)
    assert not calls
    ours(**given)
    layers = getattr(ours.config.get_text_config(), "layer_types", None)
    assert 1 <= len(calls) <= (1 if layers is None else len(set(layers)))
