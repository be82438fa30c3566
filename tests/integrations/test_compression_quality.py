"""The table of what a cut costs, and the examples of docs/compress_video.md."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vlms import MODELS, VIDEO, VISION_END, VISION_START, made, pixels

import longreel
from longreel.compression import METHODS, compression_quality

PAGE = Path(__file__).resolve().parents[2] / "docs/compress_video.md"


@pytest.fixture(scope="module")
def prompt() -> tuple[Any, dict[str, Any]]:
    """Six frames of one picture, the fourth of them another; a batch of two with words of different lengths behind."""
    model, _ = made(MODELS["qwen2_5_vl"])
    frames = pixels(1, 16, 24).expand(6, -1, -1).clone()
    frames[3] = torch.randn(16, 24, generator=torch.Generator().manual_seed(9))
    rows = [
        [*[0] * 2, 5, VISION_START, *[VIDEO] * 24, VISION_END, 7, 8],
        [5, VISION_START, *[VIDEO] * 24, VISION_END, 9, 10, 11, 12],
    ]
    ids = torch.tensor(rows)
    return model, {
        "input_ids": ids, "attention_mask": (ids != 0).long(), "mm_token_type_ids": 2 * (ids == VIDEO).int(),
        "pixel_values_videos": torch.cat([frames.flatten(0, 1), pixels(96, 24)]),
        "video_grid_thw": torch.tensor([[6, 4, 4]] * 2),
    }  # fmt: skip


@torch.no_grad()
def test_the_report(prompt: tuple[Any, dict[str, Any]]) -> None:
    model, given = prompt
    report = compression_quality(model, given, keep=(1, 0.5), planted=[[3], []])
    assert (report.frames, report.tokens) == (12, 48)
    assert {row.method for row in report.rows} == set(METHODS)
    own = model(**given).logits
    for row in report.rows:
        if row.keep == 1:
            assert (row.tokens, row.divergence, row.last, row.agreement, row.recall) == (48, 0, 0, 1, 1)
            continue
        assert row.tokens == 24
        cut = model(**longreel.compress_video(model, given, method=row.method, keep=0.5)).logits
        apart = []
        for batch, words in enumerate((3, 5)):
            p, q = (logits[batch, -words:].double().softmax(-1) for logits in (own, cut))
            apart.append((p * (p / q).log()).sum(-1))
        assert row.divergence == pytest.approx(float(torch.cat(apart).mean()), rel=1e-3)
        assert row.last == pytest.approx(float(torch.stack([one[-1] for one in apart]).mean()), rel=1e-3)
        assert row.divergence > 1e-4
    recalls = {row.method: row.recall for row in report.rows if row.keep != 1}
    assert recalls["evs"] == 1
    assert recalls["vidcom2"] == max(recalls.values())
    assert str(report).count("\n|") == 2 + len(report.rows)
    print(report)


def test_planted_frames_that_are_not_there(prompt: tuple[Any, dict[str, Any]]) -> None:
    for planted in ([[6], []], [[1]], [[], []]):
        with pytest.raises(ValueError, match=r"planted must name frames of each video, which have \[6, 6\] frames"):
            compression_quality(*prompt, planted=planted)


@torch.no_grad()
def test_the_page(prompt: tuple[Any, dict[str, Any]]) -> None:
    model, inputs = prompt
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) >= 2
    space: dict[str, Any] = {"model": model, "inputs": inputs}
    for block in blocks:
        exec(block, space)
    assert space["answer"].shape[0] == 2
