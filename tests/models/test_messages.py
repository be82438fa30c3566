"""Input that does not fit the models is refused in one line, before anything is computed; settings that would drop a mask too."""

from typing import Any

import pytest
import torch
from test_llama_vid import SMALL
from test_voco_llama import SMALL as VOCO
from test_voco_llama import system

from longreel.models.llama_vid import LlamaVid
from longreel.models.voco_llama import VoCoDecoder, VoCoLlama

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def model() -> LlamaVid:
    return LlamaVid(SMALL)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"ids": [1, 2]}, TypeError, "ids must be a tensor of whole or boolean numbers, given list"),
        (
            {"ids": torch.zeros(1, 3)},
            TypeError,
            "ids must be a tensor of whole or boolean numbers, given torch.float32",
        ),
        ({"ids": torch.zeros(3, dtype=torch.long)}, ValueError, r"ids must have 2 dimensions, given \[3\]"),
        ({"mask": torch.ones(1, 4)}, TypeError, "mask must be a tensor of whole or boolean numbers"),
        ({"mask": torch.ones(1, 4) > 0}, ValueError, r"mask must be \[1, 3\] as ids, given \[1, 4\]"),
        ({"features": torch.zeros(17, 32)}, ValueError, r"features must have 3 dimensions, given \[17, 32\]"),
        ({"features": torch.zeros(2, 17, 31)}, ValueError, r"features must be \[F, N, 32\], given \[2, 17, 31\]"),
        ({"features": torch.zeros(2, 17, 32).int()}, TypeError, "features must be a tensor of floating numbers"),
    ],
)
def test_questions(model: LlamaVid, given: dict[str, Any], error: type[Exception], said: str) -> None:
    right = {
        "ids": torch.zeros(1, 3, dtype=torch.long),
        "features": torch.zeros(2, 17, 32),
        "mask": torch.ones(1, 3) > 0,
    }
    model.query(**right)
    with pytest.raises(error, match=said):
        model.query(**right | given)


def test_pixels(model: LlamaVid) -> None:
    for encode, image in ((model.encode, 56), (VoCoLlama(VOCO).encode, 42)):
        assert encode(torch.zeros(0, image, image, 3, dtype=torch.uint8)).shape[0] == 0
        with pytest.raises(TypeError, match=r"pixels must be a uint8 tensor, given torch\.float32"):
            encode(torch.zeros(1, image, image, 3))
        with pytest.raises(ValueError, match=rf"pixels must be \[F, {image}, {image}, 3\], given \[1, 3, 8, 8\]"):
            encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_tokens_of_an_answer(model: LlamaVid) -> None:
    one = torch.tensor([1])
    for visual, after in ((torch.zeros(4, 31), one), (torch.zeros(4), one), (torch.zeros(4, 32), one[:0])):
        with pytest.raises(ValueError, match=r"visual must be \[S, 32\] and after have an id, given"):
            model.answer(visual, one, after)


def test_a_model_computes_in_the_dtype_that_its_weights_have_now(model: LlamaVid) -> None:
    pixels = torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8)
    whole = LlamaVid(SMALL)
    features = whole.encode(pixels)
    for dtype, close in ((torch.float64, 1e-4), (torch.bfloat16, 0.2)):
        whole.to(dtype)
        assert whole.dtype is whole.encode(pixels).dtype is dtype
        torch.testing.assert_close(whole.encode(pixels), features.to(dtype), rtol=close, atol=close)
    assert VoCoLlama(VOCO, device="meta").device.type == "meta"


def test_pictures_of_voco_tokens() -> None:
    decoder = system(count=2).decoder
    rows = decoder.rule.rows
    for vision in (torch.zeros(1, rows, 31), torch.zeros(rows, 32), torch.zeros(1, rows, 32, dtype=torch.long)):
        with pytest.raises(ValueError, match=rf"vision must be floating \[pictures, {rows}, 32\], given "):
            decoder(torch.zeros(1, 5, dtype=torch.long), vision)
    with pytest.raises(ValueError, match=r"vision must be floating .*, given torch.float32 \[2, 9, 31\]"):
        decoder.encode(torch.zeros(2, rows, 31))
    with pytest.raises(ValueError, match=r"input_ids must be int64 \[B, S\], given torch.int64 \[5\]"):
        decoder.embed(torch.zeros(5, dtype=torch.long))


def test_names_until_0_1_0() -> None:
    decoder = system(count=2).decoder
    rule = decoder.rule
    old = VoCoDecoder(decoder.language, rows=rule.rows, count=2, token=rule.token)
    new = VoCoDecoder(decoder.language, patches_per_frame=rule.rows, voco_tokens=2, token=rule.token)
    assert old.rule == new.rule
    assert VoCoDecoder.see is VoCoDecoder.encode
    assert VoCoLlama.see is VoCoLlama.encode_video
    with pytest.raises(TypeError, match="needs patches_per_frame, of a picture, and voco_tokens"):
        VoCoDecoder(decoder.language, patches_per_frame=4)


def test_another_attention_would_show_the_pictures() -> None:
    """sdpa and eager take a layout and ignore it."""
    model = system(count=2)
    rows, ids = model.decoder.rule.rows, torch.arange(3, 8)
    vision = torch.randn(1, rows, 32)
    cache = model.decoder.encode(vision)
    batch = model.decoder.collator()([{"input_ids": [1, -200, 5, 6], "vision": vision}])
    model.decoder(**batch)
    for other in ("sdpa", "eager"):
        model.language.set_attn_implementation(other)
        for call in (
            lambda: model.decoder(**batch),
            lambda: model.decoder.generate(**batch, max_new_tokens=1),
            lambda: model.decoder.encode(vision),
            lambda: model.decoder.ask(cache, ids, max_new_tokens=1),
        ):
            with pytest.raises(
                ValueError, match=f"attention is '{other}', which hides no pictures from the text: call"
            ):
                call()
