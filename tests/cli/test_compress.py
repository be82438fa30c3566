"""`longreel compress`: a real clip for tiny random models in folders of transformers."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations"))

import tiny_vlms

from longreel.cli.main import app
from longreel.compression import METHODS, VideoCut
from longreel.parity import footage
from longreel.report.kept_picture import lit, shown_steps


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["compress", *map(str, arguments)])


def folder_of(build: Callable[[], Any], path: Path) -> Path:
    model, _ = tiny_vlms.made(build)
    model.save_pretrained(path)
    return path


def test_a_table_a_picture_and_a_line(clip: Path, tmp_path: Path) -> None:
    folder = folder_of(tiny_vlms.qwen2_5_vl, tmp_path / "m")
    picture, lines = tmp_path / "kept.png", tmp_path / "lines.jsonl"
    result = run(clip, "--model", folder, "--frames", "uniform:8", "--size", 16, "--picture", picture, "--json", lines)
    assert result.exit_code == 0, result.output
    for method in METHODS:
        assert f"| {method} | 0.25 | 16 |" in result.stdout
    assert "8 frames of 16 x 16" in result.stdout
    assert "keep 1: the last logits are equal to the model's own, bit for bit" in result.stdout
    assert "random weights" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    (line,) = (json.loads(line) for line in lines.read_text().splitlines())
    assert (line["frames"], line["steps"], line["tokens"], line["planted"]) == (8, 4, 64, [1, 3])
    assert (line["keep_all_difference"], line["random_weights"]) == (0, True)
    assert [row["tokens"] for row in line["rows"]] == [16] * len(METHODS)
    assert all(0 <= row["recall"] <= 1 and row["scoring"] > 0 for row in line["rows"])


@pytest.mark.parametrize(
    "build",
    [tiny_vlms.qwen3_vl, tiny_vlms.video_llama_3, tiny_vlms.llava_onevision, tiny_vlms.smolvlm, tiny_vlms.internvl],
    ids=lambda build: build.__name__,
)
def test_every_way_in_which_frames_come(build: Callable[[], Any], clip: Path, tmp_path: Path) -> None:
    options = ["--frames", "uniform:5", "--method", "evs", "--keep", "0.5", "--planted", 1, "--chunk", 2]
    size = ["--size", 16] if build in (tiny_vlms.qwen3_vl, tiny_vlms.video_llama_3) else []
    result = run(clip, "--model", folder_of(build, tmp_path / "m"), *options, *size)
    assert result.exit_code == 0, result.output
    assert "| evs | 0.5 |" in result.stdout


def test_a_name_is_no_formula(clip: Path, tmp_path: Path) -> None:
    video = tmp_path / "a$\\frac$ 日.mp4"
    video.write_bytes(clip.read_bytes())
    options = [
        "--frames",
        "uniform:4",
        "--size",
        16,
        "--planted",
        1,
        "--method",
        "evs",
        "--picture",
        tmp_path / "kept.png",
    ]
    result = run(video, "--model", folder_of(tiny_vlms.qwen2_5_vl, tmp_path / "m"), *options)
    assert result.exit_code == 0, result.output
    assert "Glyph" not in result.stderr
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("preprocessor_config.json", '{"image_mean": ["a", "b", "c"], "image_std": [1, 1, 1]}', "not a number"),
        ("preprocessor_config.json", '{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}', "not a number above 0"),
        ("preprocessor_config.json", "[]", "not a table of names"),
        ("tokenizer.json", "{", "its tokenizer cannot be read"),
    ],
)
def test_files_beside_a_model(name: str, text: str, said: str, clip: Path, tmp_path: Path) -> None:
    folder = folder_of(tiny_vlms.qwen2_5_vl, tmp_path / "m")
    (folder / name).write_text(text)
    result = run(clip, "--model", folder, "--frames", "uniform:4", "--size", 16, "--planted", 1)
    told = [line for line in result.stderr.splitlines() if "Loading weights" not in line and line.strip()]
    assert (result.exit_code, len(told)) == (2, 1), result.stderr
    assert said in told[0]


def test_refused_in_one_line(clip: Path, tmp_path: Path) -> None:
    folder = folder_of(tiny_vlms.qwen2_5_vl, tmp_path / "m")
    refused = folder_of(tiny_vlms.instructblip_video, tmp_path / "i")
    for arguments, said in (
        (["--model", tmp_path], "no config.json"),
        (["--model", refused], "does not take InstructBlipVideo"),
        (["--model", folder, "--size", 18], "allowed: multiples of 4"),
        (["--model", folder, "--method", "best"], "method is 'best'; allowed: pool"),
        (["--model", folder, "--keep", "0"], "keep is 0.0; allowed: above 0"),
        (["--model", folder, "--planted", 50], "allowed: fewer cards than steps"),
        (["--model", folder, "--dtype", "fp8"], "--dtype 'fp8': there is fp32, bf16"),
        (["--model", folder, "--picture", tmp_path / "x.txt"], "its name must end in .png or .svg"),
    ):
        result = run(clip, *arguments)
        # transformers shows how far it has loaded
        told = [line for line in result.stderr.splitlines() if "Loading weights" not in line and line.strip()]
        assert (result.exit_code, len(told)) == (2, 1), result.stderr
        assert said in told[0]


def test_patches_are_the_processors() -> None:
    """As Qwen2-VL's own processor lays them out, of pictures that stand for two frames."""
    transformers = pytest.importorskip("transformers")
    try:
        processor = transformers.Qwen2VLImageProcessor(
            patch_size=2,
            merge_size=2,
            temporal_patch_size=2,
            do_resize=False,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
    except ImportError:
        pytest.skip("no image processor without torchvision")
    model, _ = tiny_vlms.made(tiny_vlms.qwen2_vl)
    picture = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    want = processor(picture, return_tensors="pt")
    x = (torch.from_numpy(picture).float() / 255 - 0.5) / 0.5
    got = footage._patches(model, x.movedim(-1, 0).expand(2, -1, -1, -1).contiguous(), 2)
    torch.testing.assert_close(got["pixel_values_videos"], want["pixel_values"], atol=1e-6, rtol=0)
    assert torch.equal(got["video_grid_thw"], want["image_grid_thw"])


def test_lit_tokens_are_where_they_were() -> None:
    frame = torch.full((4, 6, 3), 200, dtype=torch.uint8)
    cut = VideoCut(0, (2, 6), (2, 3), torch.tensor([1, 8]), 12)
    for step, (rows, columns) in enumerate([(slice(0, 2), slice(2, 4)), (slice(0, 2), slice(4, 6))]):
        found = lit(frame, cut, step)
        assert bool((found[rows, columns] == 200).all())
        assert int((found == 200).sum()) == 2 * 2 * 3
    assert shown_steps(4, [1]) == [0, 1, 2, 3]
    assert len(shown_steps(3600, [7, 900])) == 10
    assert {7, 900} <= set(shown_steps(3600, [7, 900]))
