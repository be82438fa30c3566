"""compress_video on tiny models of transformers: the model's own logits where all is kept, and the truth of what is left."""

from typing import Any

import pytest
import torch
from tiny_vlms import (
    IMAGE,
    MODELS,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
    instructblip_video,
    internvl,
    made,
    pixels,
    qwen3_vl,
)
from torch import Tensor

import longreel
from longreel import _transformers
from longreel.compression.cuts import METHODS
from longreel.compression.prompt import VideoCut

CLOSE = {"atol": 1e-4, "rtol": 0.0}
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
NAMES = (*QWEN, "video_llama_3", "llava_onevision", "llava_next_video", "smolvlm", "internvl")
BUILD = MODELS | {"internvl": internvl}
Inputs = dict[str, Any]
# Greedy answers of words alone: a placeholder would ask for features.
WORDS: Inputs = {"do_sample": False, "suppress_tokens": list(range(IMAGE, VOCABULARY))}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: made(BUILD[name]) for name in NAMES}


def padded(given: Inputs, length: int = 3) -> Inputs:
    """The second row begins with so many words less: padding stands left."""
    x = given["input_ids"].clone()
    mask = torch.ones_like(x)
    words = x[1][x[1] < IMAGE]
    x[1] = torch.cat([torch.zeros(length, dtype=torch.long), x[1][x[1] >= IMAGE], words[length:]])
    if "mm_token_type_ids" in given and (x == VISION_START).sum(1).max() > 1:
        # Frames apart by stamps: what is between stays.
        x[1] = torch.cat([torch.zeros(length, dtype=torch.long), given["input_ids"][1][: len(x[1]) - length]])
    mask[1, :length] = 0
    out = given | {"input_ids": x, "attention_mask": mask}
    if "mm_token_type_ids" in given:
        out["mm_token_type_ids"] = 2 * (x == VIDEO).int()
    return out


def own_positions(model: Any, given: Inputs) -> Tensor:
    """As the model numbers the whole prompt."""
    mask = given["attention_mask"]
    plain = (mask.cumsum(1) - 1).clamp(min=0)
    if not hasattr(model.model, "get_rope_index"):
        return plain
    names = (
        "input_ids",
        "mm_token_type_ids",
        "video_grid_thw",
        "image_grid_thw",
        "second_per_grid_ts",
        "attention_mask",
    )
    found, _ = model.model.get_rope_index(**{key: given[key] for key in names if key in given})
    return torch.cat([plain[None], found])


def truth(model: Any, inputs: Inputs, steps: int) -> Tensor:
    """[B, steps]: the greedy answer of words from whole forward passes, without a cache."""
    inputs = dict(inputs) | {"use_cache": False}
    begin = inputs["input_ids"].shape[1]
    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    for _ in range(steps):
        token = model(**inputs).logits[:, -1:, :IMAGE].argmax(-1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token], 1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(token)], 1)
        inputs["position_ids"] = torch.cat([inputs["position_ids"], inputs["position_ids"][..., -1:] + 1], -1)
    return inputs["input_ids"][:, begin:]


def dropped(given: Inputs, token: int, kept: tuple[VideoCut, ...], tail: int = 0) -> Tensor:
    """bool [B, S]: placeholders that a cut leaves out, by the order of the videos."""
    slots, flags = given["input_ids"] == token, []
    for one in kept:
        out = torch.ones(one.tokens + tail, dtype=torch.bool)
        out[one.kept] = False
        out[one.tokens :] = False
        flags.append(out)
    out = torch.zeros_like(slots)
    out[slots] = torch.cat(flags)
    return out


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_all_kept_is_the_models_own_path(models: dict[str, Any], name: str) -> None:
    model, given = models[name]
    for inputs in (given, given | {"attention_mask": torch.ones_like(given["input_ids"])}, padded(given)):
        for more in ({"keep": 1}, {"tokens": 99, "method": "merge"}):
            ours = longreel.compress_video(model, inputs, **more)
            assert torch.equal(model(**ours).logits, model(**inputs).logits)
            options = WORDS | {"max_new_tokens": 4}
            assert torch.equal(model.generate(**ours, **options), model.generate(**inputs, **options))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_half_is_the_prompt_without_the_rest(models: dict[str, Any], name: str) -> None:
    """What is dropped might as well stand there and be masked: positions, stamps, padding and layers of features are right."""
    model, given = models[name]
    inputs = padded(given)
    token = IMAGE if name in ("smolvlm", "internvl") else VIDEO
    for method in ("context", "evs", "vidcom2"):
        ours = longreel.compress_video(model, inputs, method=method, keep=0.5)
        out = dropped(inputs, token, ours.cuts, tail=int(name == "llava_onevision"))
        assert torch.equal(ours.next_position, own_positions(model, inputs).view(-1, *out.shape)[-1][:, -1] + 1)
        assert all(len(one.kept) * 2 == one.tokens for one in ours.cuts)
        assert out.any(1).all()
        masked = inputs | {
            "attention_mask": inputs["attention_mask"] * ~out,
            "position_ids": own_positions(model, inputs),
        }
        want = model(**masked).logits
        got = model(**ours).logits
        for row in range(2):
            left = masked["attention_mask"][row].bool()
            torch.testing.assert_close(got[row][ours["attention_mask"][row].bool()], want[row][left], **CLOSE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_generate_is_its_own_truth(models: dict[str, Any], name: str, method: str) -> None:
    model, given = models[name]
    ours = longreel.compress_video(model, padded(given), method=method, keep=0.5)
    assert ours["input_ids"].shape[1] == given["input_ids"].shape[1] - ours.cuts[0].tokens + len(ours.cuts[0].kept)
    answer = model.generate(**ours, max_new_tokens=4, **WORDS)
    assert torch.equal(answer[:, -4:], truth(model, ours, 4))


def qwen_prompt(name: str) -> Inputs:
    """Row 0: a picture and a video of 3 frames of 4 x 4; row 1: videos of 2 frames of 4 x 8 and of 1 of 4 x 4."""
    grids = [(3, 2, 2), (2, 2, 4), (1, 2, 2)]

    def video(t: int, h: int, w: int) -> list[int]:
        frame = [VISION_START, *[VIDEO] * (h * w), VISION_END]
        if name == "qwen3_vl":
            return [token for i in range(t) for token in (30 + i, *frame)]
        return [VISION_START, *[VIDEO] * (t * h * w), VISION_END]

    first = [5, VISION_START, *[IMAGE] * 4, VISION_END, 6, *video(*grids[0]), 7, 8, 9]
    second = [5, *video(*grids[1]), 11, *video(*grids[2]), 12, 13]
    length = max(len(first), len(second))
    x = torch.tensor([[0] * (length - len(row)) + row for row in (first, second)])
    given = {
        "input_ids": x, "attention_mask": (x != 0).long(), "mm_token_type_ids": (x == IMAGE).int() + 2 * (x == VIDEO).int(),
        "pixel_values": pixels(16, 24), "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "pixel_values_videos": pixels(sum(t * h * w * 4 for t, h, w in grids), 24),
        "video_grid_thw": torch.tensor([[t, 2 * h, 2 * w] for t, h, w in grids]),
    }  # fmt: skip
    return given | ({"second_per_grid_ts": [1.0, 2.0, 0.5]} if name == "qwen2_5_vl" else {})


@pytest.mark.parametrize("name", QWEN)
@torch.no_grad()
def test_pictures_beside_several_videos(models: dict[str, Any], name: str) -> None:
    model, given = models[name][0], qwen_prompt(name)
    whole = longreel.compress_video(model, given, keep=1)
    want = model(**given).logits
    assert torch.equal(model(**whole).logits, want)
    ours = longreel.compress_video(model, given, method="evs", tokens=9)
    assert [(one.row, one.tokens, len(one.kept), one.grid) for one in ours.cuts] == [
        (0, 12, 9, (2, 2)), (1, 16, 7, (2, 4)), (1, 4, 2, (2, 2)),
    ]  # fmt: skip
    assert (ours["input_ids"] == IMAGE).sum() == 4
    left = (given["attention_mask"] * ~dropped(given, VIDEO, ours.cuts)).bool()
    masked = given | {"attention_mask": left.long(), "position_ids": own_positions(model, given)}
    got, want = model(**ours).logits, model(**masked).logits
    for row in range(2):
        torch.testing.assert_close(got[row][ours["attention_mask"][row].bool()], want[row][left[row]], **CLOSE)
    answer = model.generate(**ours, max_new_tokens=3, **WORDS)
    assert torch.equal(answer[:, -3:], truth(model, ours, 3))


@pytest.mark.parametrize("name", NAMES)
def test_beams_of_a_batch_are_those_of_each_row(models: dict[str, Any], name: str) -> None:
    """transformers repeats the features of a row by their lengths."""
    model, given = models[name]
    options = WORDS | {"max_new_tokens": 3, "num_beams": 2}
    together = model.generate(**longreel.compress_video(model, given, keep=0.5), **options)
    for row in range(2):
        alone = {key: value.chunk(2)[row] for key, value in given.items()}
        want = model.generate(**longreel.compress_video(model, alone, keep=0.5), **options)
        assert torch.equal(together[row : row + 1, -3:], want[:, -3:])


@torch.no_grad()
def test_a_mixture_of_experts() -> None:
    model, given = made(lambda: qwen3_vl(moe=True))
    inputs = padded(given)
    assert torch.equal(model(**longreel.compress_video(model, inputs, keep=1)).logits, model(**inputs).logits)
    ours = longreel.compress_video(model, inputs, keep=0.5)
    answer = model.generate(**ours, max_new_tokens=3, **WORDS)
    assert torch.equal(answer[:, -3:], truth(model, ours, 3))


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
@torch.no_grad()
def test_padding_on_the_right_and_a_row_of_text(models: dict[str, Any], name: str) -> None:
    model, given = models[name]
    x = given["input_ids"]
    text = x[1].clone()
    text[text >= IMAGE] = 40
    end = torch.zeros(2, 3, dtype=torch.long)
    ids = torch.cat(
        [torch.cat([x[:1], end[:1]], 1), torch.cat([text[None, 4:], end[:1], torch.zeros(1, 4, dtype=torch.long)], 1)]
    )
    inputs = {key: value[: len(value) // 2] for key, value in given.items()} | {
        "input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids,
    }  # fmt: skip
    if "mm_token_type_ids" in given:
        inputs["mm_token_type_ids"] = 2 * (ids == VIDEO).int()
    ours = longreel.compress_video(model, inputs, method="evs", keep=0.5)
    assert [(one.row, len(one.kept) * 2) for one in ours.cuts] == [(0, ours.cuts[0].tokens)]
    left = inputs["attention_mask"] * ~dropped(inputs, VIDEO, ours.cuts, tail=int(name == "llava_onevision"))
    want = model(**inputs | {"attention_mask": left, "position_ids": own_positions(model, inputs)}).logits
    got = model(**ours)
    assert got.loss.isfinite()
    assert ours["attention_mask"][:, 0].all()
    for row in range(2):
        there = ours["attention_mask"][row].bool()
        torch.testing.assert_close(got.logits[row][there], want[row][left[row].bool()], **CLOSE)
        assert torch.equal(ours["labels"][row][there], ours["input_ids"][row][there])
        assert (ours["labels"][row][~there] == -100).all()


def uneven(name: str) -> Inputs:
    """Row 0 has 2 frames of 4 tokens, row 1 has 4: as two clips, as one video, or as pictures."""
    if name == "video_llama_3":
        grids = torch.tensor([[2, 4, 4], [4, 4, 4]])
        pictures: Inputs = {
            "pixel_values_videos": pixels(96, 12), "video_grid_thw": grids, "video_merge_sizes": torch.tensor([2, 2]),
        }  # fmt: skip
    elif name == "internvl":
        pictures = {"pixel_values": pixels(6, 3, 8, 8)}
    elif name == "smolvlm":
        pictures = {"pixel_values": pixels(2, 4, 3, 8, 8)}
        pictures["pixel_values"][0, 2:] = 0
    else:
        pictures = {"pixel_values_videos": pixels(3, 2, 3, 8, 8)}
    token, newline = (IMAGE, 0) if name in ("smolvlm", "internvl") else (VIDEO, int(name == "llava_onevision"))
    clips = ((8,), (8, 8)) if "llava" in name else ((8,), (16,))
    rows = [[5, *[token] * sum(n + newline for n in clip), 6, 7, 8] for clip in clips]
    ids = torch.tensor([[0] * (len(rows[1]) - len(rows[0])) + rows[0], rows[1]])
    return pictures | {"input_ids": ids, "attention_mask": (ids != 0).long()}


@pytest.mark.parametrize("name", NAMES[3:])
@torch.no_grad()
def test_rows_of_other_lengths(models: dict[str, Any], name: str) -> None:
    model, given = models[name][0], uneven(name)
    token = IMAGE if name in ("smolvlm", "internvl") else VIDEO
    assert torch.equal(model(**longreel.compress_video(model, given, keep=1)).logits, model(**given).logits)
    for more in ({"tokens": 5}, {"keep": 0.5, "chunk_frames": 1}):
        ours = longreel.compress_video(model, given, method="vidcom2", **more)
        assert sum(len(one.kept) for one in ours.cuts) == (10 if "tokens" in more else 12)
        left = (given["attention_mask"] * ~dropped(given, token, ours.cuts, tail=int(name == "llava_onevision"))).bool()
        want = model(**given | {"attention_mask": left.long(), "position_ids": own_positions(model, given)}).logits
        got = model(**ours).logits
        for row in range(2):
            torch.testing.assert_close(got[row][ours["attention_mask"][row].bool()], want[row][left[row]], **CLOSE)
        answer = model.generate(**ours, max_new_tokens=2, **WORDS)
        assert torch.equal(answer[:, -2:], truth(model, ours, 2))


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
@torch.no_grad()
def test_under_longreel_attention_in_chunks_of_the_prompt_and_in_bf16(models: dict[str, Any], name: str) -> None:
    given = padded(models[name][1])
    ours, _ = made(BUILD[name], {"text_config": "longreel"})
    cut = longreel.compress_video(models[name][0], given, keep=0.5)
    want, got = (model(**cut).logits[cut["attention_mask"].bool()] for model in (models[name][0], ours))
    torch.testing.assert_close(got, want, **CLOSE)
    answers = [model.generate(**cut, max_new_tokens=3, **WORDS) for model in (models[name][0], ours)]
    assert torch.equal(*answers)
    others: list[Inputs] = [{"cache_implementation": "static"}]
    # transformers 5.18 loses features there, those of its own pixels too.
    if (_transformers.version() or (0, 0)) >= (5, 23):
        others.append({"prefill_chunk_size": 5})
    for more in others:
        assert torch.equal(models[name][0].generate(**cut, max_new_tokens=3, **WORDS, **more), answers[0])
    low = made(BUILD[name])[0].bfloat16()
    assert torch.equal(low(**longreel.compress_video(low, given, keep=1)).logits, low(**given).logits)
    for method in METHODS:
        cut = longreel.compress_video(low, given, method=method, keep=0.5)
        assert low(**cut).logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_frames_go_through_the_tower_in_chunks(models: dict[str, Any], name: str) -> None:
    model, given = models[name]
    for inputs in [given] + [qwen_prompt(name)] * (name in QWEN):
        want = longreel.compress_video(model, inputs, keep=1)
        for chunk in (1, 2):
            got = longreel.compress_video(model, inputs, keep=1, chunk_frames=chunk)
            torch.testing.assert_close(model(**got).logits, model(**want).logits, **CLOSE)


@torch.no_grad()
def test_rope_deltas_continue_behind_the_cut(models: dict[str, Any]) -> None:
    """A step that gives no positions gets those of the whole prompt's next tokens."""
    for name in QWEN:
        model, given = models[name]
        ours = longreel.compress_video(model, given, keep=0.5)
        out = model(**ours, use_cache=True)
        token = out.logits[:, -1:, :IMAGE].argmax(-1)
        step = model(input_ids=token, **_transformers.with_cache(_transformers.cache_of(out)))
        mask = torch.cat([ours["attention_mask"], torch.ones_like(token)], 1)
        positions = torch.cat([ours["position_ids"], ours["position_ids"][..., -1:] + 1], -1)
        ids = torch.cat([ours["input_ids"], token], 1)
        want = model(**ours | {"input_ids": ids, "attention_mask": mask, "position_ids": positions})
        torch.testing.assert_close(step.logits[:, -1], want.logits[:, -1], **CLOSE)


@torch.no_grad()
def test_tokens_that_a_processor_dropped_already(models: dict[str, Any]) -> None:
    model, given = models["video_llama_3"]
    alive = torch.rand(16, generator=torch.Generator().manual_seed(2)) < 0.7
    x = given["input_ids"]
    there = torch.ones_like(x, dtype=torch.bool)
    there[x == VIDEO] = alive
    counts = there.sum(1).tolist()
    rows = [x[i][there[i]] for i in range(2)]
    length = max(counts)
    ids = torch.stack([torch.cat([torch.zeros(length - len(row), dtype=torch.long), row]) for row in rows])
    given = given | {"input_ids": ids, "attention_mask": (ids != 0).long(), "video_compression_mask": alive}
    whole = longreel.compress_video(model, given, keep=1)
    assert torch.equal(model(**whole).logits, model(**given).logits)
    for method in ("evs", "context", "vidcom2", "merge"):
        ours = longreel.compress_video(model, given, method=method, tokens=3)
        assert (ours["input_ids"] == VIDEO).sum(1).tolist() == [3, 3]
        for one, part in zip(ours.cuts, alive.view(2, 8), strict=True):
            assert part[one.kept].all()
        answer = model.generate(**ours, max_new_tokens=3, **WORDS)
        assert torch.equal(answer[:, -3:], truth(model, ours, 3))
    with pytest.raises(ValueError, match="use_token_compression=False"):
        longreel.compress_video(model, given, method="pool", keep=0.5)


REFUSALS: list[tuple[Inputs, Inputs, str]] = [
    ({"keep": 0.5, "method": "fastv"}, {}, "allowed: pool, context, evs, vidcom2, merge"),
    ({}, {}, "one of keep"),
    ({"keep": 0.5, "tokens": 4}, {}, "one of keep"),
    ({"keep": 0}, {}, "above 0"),
    ({"keep": 1.5}, {}, "up to 1"),
    ({"tokens": 0}, {}, "1 and more"),
    ({"keep": 0.5, "query": torch.ones(1, 32)}, {}, "'context' alone"),
    ({"keep": 0.5, "method": "context", "query": torch.ones(1, 8)}, {}, r"\[M, 32\]"),
    ({"keep": 0.5, "chunk_frames": 0}, {}, "1 and more"),
    ({"keep": 0.1, "method": "pool"}, {}, "a token at least"),
    ({"keep": 0.5}, {"pixel_values_videos": None}, "needs pixel_values_videos"),
    ({"keep": 0.5}, {"position_ids": torch.zeros(2, 16)}, "position_ids"),
    ({"keep": 0.5}, {"past_key_values": object()}, "past_key_values"),
    ({"keep": 0.5}, {"video_cu_seqlens": torch.zeros(2)}, "video_cu_seqlens"),
    ({"keep": 0.5}, {"weights": torch.zeros(2, 16)}, "how to shorten weights"),
    ({"keep": 0.5}, {"attention_mask": torch.zeros(2, 16)}, "hides"),
    ({"keep": 0.5}, {"attention_mask": torch.zeros(2, 1, 16, 16)}, r"\[B, S\] both, given \[2, 16\] and \[2, 1, 16, 16\]"),
    ({"keep": 0.5}, {"input_ids": torch.full((2, 16), 5)}, "no placeholder"),
    ({"keep": 0.5}, {"input_ids": torch.full((2, 16), VIDEO)}, "ends in a video"),
    ({"keep": 0.5}, {"video_grid_thw": torch.tensor([[2, 4, 4]])}, "expects 32 patches"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "changes", "says"), REFUSALS, ids=[says for _, _, says in REFUSALS])
def test_what_cannot_be_is_refused(models: dict[str, Any], options: Inputs, changes: Inputs, says: str) -> None:
    model, given = models["qwen2_vl"]
    with pytest.raises(ValueError, match=says):
        longreel.compress_video(model, given | changes, **options)


def test_a_prompt_that_does_not_fit_its_videos(models: dict[str, Any]) -> None:
    model, given = models["qwen2_vl"]
    x = given["input_ids"].clone()
    x[0, 3] = 9
    with pytest.raises(ValueError, match=r"\[8, 8\] tokens do not fit placeholders \[7, 8\]"):
        longreel.compress_video(model, given | {"input_ids": x}, keep=0.5)


def test_models_that_are_not_covered() -> None:
    model, given = made(instructblip_video)
    with pytest.raises(ValueError, match="Q-Former"):
        longreel.compress_video(model, given, keep=0.5)
    with pytest.raises(ValueError, match="does not know Linear"):
        longreel.compress_video(torch.nn.Linear(1, 1), given, keep=0.5)


def test_an_old_transformers_is_refused(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "5.14.0")
    with pytest.raises(
        ImportError, match=r"compress_video needs transformers 5\.18 or newer, this environment has 5\.14\.0"
    ):
        longreel.compress_video(*models["qwen2_vl"], keep=0.5)
