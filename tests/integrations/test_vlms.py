"""The decoders of ten vision-language models under longreel: logits, the last one alone, and answers, as eager attention's."""

from typing import Any

import pytest
import torch
from tiny_vlms import MODELS, blip2_t5, made

import longreel
from longreel import VideoLayout

CLOSE = 1e-4
OURS = {"text_config": "longreel"}


@pytest.mark.parametrize("name", list(MODELS))
@torch.no_grad()
def test_a_vlm(name: str) -> None:
    eager, given = made(MODELS[name])
    ours, _ = made(MODELS[name], OURS)
    assert ours.config.get_text_config()._attn_implementation == "longreel"
    expected = eager(**given).logits
    assert expected.std() > 0.05
    for more in ({}, {"logits_to_keep": 1}):
        got, want = ours(**given, **more).logits, eager(**given, **more).logits
        torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)
    with longreel.use_layout(VideoLayout.causal(given["input_ids"].shape[1])):
        torch.testing.assert_close(ours(**given).logits, expected, atol=CLOSE, rtol=0)
    # The first token is wrong under another mask: what is compared depends on it.
    with longreel.use_layout(VideoLayout.sliding_window(given["input_ids"].shape[1], 3)):
        assert not torch.allclose(ours(**given).logits, expected, atol=1e-2)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(ours.generate(**given, **options), eager.generate(**given, **options))


def test_a_part_that_never_calls_us_is_refused() -> None:
    """A text model whose attention has a position bias of its own; transformers says "longreel" and goes on with its own."""
    model, given = made(blip2_t5)
    with pytest.raises(ValueError, match="T5"):
        model.set_attn_implementation(OURS)
    assert model.config.text_config._attn_implementation != "longreel"
    with pytest.raises(ValueError, match="T5Attention"):
        made(blip2_t5, OURS)[0](**given)
