import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from longreel.cli.console import NO_ROOM
from longreel.cli.main import app
from longreel.models.llama_vid import LlamaVid, Ops, Preset


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(item) for item in arguments])


def run(tmp_path: Path, small: Preset, *arguments: object) -> tuple[Result, dict[str, Any]]:
    """A run that must succeed, and its line of JSON."""
    lines = tmp_path / "run.jsonl"
    result = call("run", *arguments, "--preset", small.name, "--json", lines)
    assert result.exit_code == 0, result.output
    return result, json.loads(lines.read_text().splitlines()[-1])


def test_a_video(tmp_path: Path, small: Preset, clip: Path) -> None:
    result, line = run(tmp_path, small, clip, "--frames", "fps:5")
    assert (line["frames"], line["tokens"], line["patches"]) == (10, 20, 170)
    assert list(line["stages_s"]["longreel"]) == ["decode", "tower", "query", "compress", "language", "other"]
    assert line["total_s"]["longreel"] == pytest.approx(sum(line["stages_s"]["longreel"].values()))
    spent = line["stages_cpu_s"]["longreel"]
    assert list(spent) == ["decode", "resize", "tower", "query", "compress", "language", "other"]
    assert sum(spent.values()) + sum(line["aside_cpu_s"].values()) == pytest.approx(line["process_cpu_s"], rel=0.05)
    assert line["peak_memory_bytes"]["longreel"] > 10**7
    assert line["memory_by_frames"][0][0] == 4
    assert "10 frames in" in result.stdout.splitlines()[0]
    assert "random" in result.stdout
    assert "\x1b" not in result.output
    assert result.stderr == ""
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_compare(tmp_path: Path, small: Preset, clip: Path) -> None:
    picture = tmp_path / "run.png"
    result, line = run(tmp_path, small, clip, "--compare", "--plot", picture, "--question", "a", "--question", "why?")
    assert line["passed"]
    assert 0 < line["error_over_budget"] <= 1
    assert list(line["stage_ratios"]) == ["query", "compress"]
    assert line["end_to_end_ratio"] == pytest.approx(line["total_s"]["reference"] / line["total_s"]["longreel"])
    assert "end to end" in result.stdout.splitlines()[0]
    assert "same numbers   yes" in result.stdout
    with Image.open(picture) as image:
        assert min(image.size) > 500


def test_the_reference_path_alone(tmp_path: Path, small: Preset, clip: Path) -> None:
    _, ours = run(tmp_path, small, clip)
    result, line = run(tmp_path, small, clip, "--ops", "reference")
    assert "reference path" in result.stdout.splitlines()[0]
    for key in ("total_s", "stages_s", "peak_memory_bytes", "first_token_s", "tokens_per_s"):
        assert list(line[key]) == ["reference"]
        assert list(ours[key]) == ["longreel"]
    assert list(line["stages_s"]["reference"]) == list(ours["stages_s"]["longreel"])
    assert line["backend"] == "reference"


def test_the_first_frames_only(tmp_path: Path, small: Preset, clip: Path) -> None:
    _, few = run(tmp_path, small, clip, "--frames", "fps:5", "--count", 3)
    assert (few["frames"], few["tokens"]) == (3, 6)


def test_time_to_the_first_token(tmp_path: Path, small: Preset, clip: Path) -> None:
    """All stages but the language model's, and of that what stands before the first of `--answer-tokens` ids."""
    result, line = run(tmp_path, small, clip, "--answer-tokens", 5)
    assert len(line["questions"][0]["ids"]) == 5
    stages = line["stages_s"]["longreel"]
    before = line["total_s"]["longreel"] - stages["language"]
    assert before < line["first_token_s"]["longreel"] < line["total_s"]["longreel"]
    later = 4 / line["tokens_per_s"]["longreel"]
    assert line["first_token_s"]["longreel"] + later == pytest.approx(line["total_s"]["longreel"], rel=0.05)
    assert "first token    after" in result.stdout


def test_no_memory_left_is_one_line(small: Preset, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9")

    monkeypatch.setattr(LlamaVid, "compress", full)
    refused(
        call("run", clip, "--preset", small.name), "longreel: CUDA out of memory. Tried to allocate 2.00 GiB\n", NO_ROOM
    )


def test_wrong_numbers_fail(tmp_path: Path, small: Preset, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = LlamaVid.compress

    def wrong(self: LlamaVid, queries: Tensor, features: Tensor, *, mask: Tensor | None, ops: Ops) -> Tensor:
        return right(self, queries, features, mask=mask, ops=ops) * (1.00001 if ops == "longreel" else 1)

    monkeypatch.setattr(LlamaVid, "compress", wrong)
    result = call("run", clip, "--preset", small.name, "--compare")
    assert result.exit_code == 1
    assert "NO:" in result.stdout


def test_questions_share_one_pass(tmp_path: Path, small: Preset, clip: Path) -> None:
    questions = ["why?", "what is it that we see?"]
    _, both = run(tmp_path, small, clip, "--question", questions[0], "--question", questions[1])
    assert [entry["question"] for entry in both["questions"]] == questions
    assert [entry["seconds"] for entry in both["questions"]] == [None, None], "they share the compression"
    for index, question in enumerate(questions):
        _, one = run(tmp_path, small, clip, "--question", question)
        assert one["questions"][0] == both["questions"][index]
    assert both["frames"] == one["frames"]


def test_a_later_question_decodes_nothing(tmp_path: Path, small: Preset, clip: Path) -> None:
    kept = tmp_path / "kept.safetensors"
    _, first = run(tmp_path, small, clip, "--features", kept, "--question", "why?")
    _, second = run(tmp_path, small, kept, "--question", "why?")
    assert not {"decode", "tower", "write"} & set(second["stages_s"]["longreel"])
    assert second["questions"] == first["questions"]


def test_extract_then_run(tmp_path: Path, small: Preset, clip: Path) -> None:
    out = tmp_path / "clip.safetensors"
    result = call(
        "extract", clip, "--out", out, "--preset", small.name, "--frames", "fps:5", "--json", tmp_path / "e.jsonl"
    )
    assert result.exit_code == 0, result.output
    assert "[10, 17, 32] float32" in result.stdout
    assert json.loads((tmp_path / "e.jsonl").read_text())["command"] == "extract"
    _, from_video = run(tmp_path, small, clip, "--frames", "fps:5")
    _, from_features = run(tmp_path, small, out, "--compare")
    assert from_features["questions"] == from_video["questions"]
    assert from_features["passed"]


def test_images_keep_all_their_patches(tmp_path: Path, small: Preset) -> None:
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.png")
        Image.new("RGB", (80, 60), (80 * index, 30, 200)).save(paths[-1])
    _, one = run(tmp_path, small, paths[0])
    assert (one["frames"], one["tokens"]) == (1, 17)
    _, all_of_them = run(tmp_path, small, *paths)
    assert (all_of_them["frames"], all_of_them["tokens"]) == (3, 51)
    out = tmp_path / "images.safetensors"
    assert call("extract", *paths, "--out", out, "--preset", small.name).exit_code == 0
    _, from_features = run(tmp_path, small, out)
    assert from_features["questions"] == all_of_them["questions"]
    _, pooled = run(tmp_path, small, *paths, "--tokens-per-frame", 4)
    assert pooled["tokens"] == 15


@pytest.mark.parametrize(("options", "tokens"), [
    (["--tokens-per-frame", "4"], 50),
    (["--tokens-per-frame", "auto"], 170),
    (["--tokens-per-frame", "auto", "--token-budget", "60"], 50),
    (["--tokens-per-frame", "auto", "--token-budget", "20"], 20),
])  # fmt: skip
def test_tokens_per_frame(tmp_path: Path, small: Preset, clip: Path, options: list[str], tokens: int) -> None:
    assert run(tmp_path, small, clip, "--frames", "fps:5", *options)[1]["tokens"] == tokens


def test_a_named_backend(tmp_path: Path, small: Preset, clip: Path) -> None:
    assert run(tmp_path, small, clip, "--backend", "reference")[1]["backend"] == "reference"


def test_a_bert_instead_of_the_qformer(tmp_path: Path, small: Preset, clip: Path) -> None:
    questions = ["--question", "why?", "--question", "what is it that we see?"]
    _, line = run(tmp_path, small, clip, "--text-decoder", "bert", "--compare", *questions)
    assert line["passed"]
    _, alone = run(tmp_path, small, clip, "--text-decoder", "bert", "--question", "why?")
    assert alone["questions"][0] == line["questions"][0]


def test_without_cls_as_released_for_long_video(tmp_path: Path, small: Preset, clip: Path) -> None:
    _, line = run(tmp_path, small, clip, "--drop-cls", "--compare")
    assert (line["patches"], line["passed"]) == (32, True)
    out = tmp_path / "long.safetensors"
    assert call("extract", clip, "--drop-cls", "--out", out, "--preset", small.name).exit_code == 0
    _, from_features = run(tmp_path, small, out)
    assert from_features["questions"] == line["questions"]
    kept = tmp_path / "short.safetensors"
    assert call("extract", clip, "--out", kept, "--preset", small.name).exit_code == 0
    refused(call("run", kept, "--drop-cls", "--preset", small.name), "this file keeps the CLS token")


def test_the_papers_equation(tmp_path: Path, small: Preset, clip: Path) -> None:
    released = run(tmp_path, small, clip, "--compare")[1]
    paper = run(tmp_path, small, clip, "--compare", "--equation", "paper")[1]
    assert released["passed"]
    assert paper["passed"]
    assert released["questions"] != paper["questions"]


def test_the_hour_in_small(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "hour.py"
    lines = tmp_path / "hour.jsonl"
    command = [sys.executable, str(script), "--seconds=5", "--chunk=2", f"--cache={tmp_path}", f"--json={lines}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 frames in" in done.stdout
    line = json.loads(lines.read_text())
    assert (line["frames"], line["tokens"], line["passed"]) == (5, 10, True)
    assert (tmp_path / "hour.png").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--system", "other"], "there is llama-vid"),
        (["--preset", "giant"], "llama-vid has tiny"),
        (["--frames", "every:2"], "cannot read frame spec"),
        (["--tokens-per-frame", "2"], "gives 1, 4 or 16, or auto"),
        (["--tokens-per-frame", "many"], "give a number, or auto"),
        (["--tokens-per-frame", "auto", "--token-budget", "3"], "2 frames need 4 tokens"),
        (["--backend", "nonsense"], "nonsense"),
        (["--question", ""], "a question is empty"),
        (["--equation", "other"], "--equation 'other': there is released or paper"),
        (["--text-decoder", "gpt"], "--text-decoder 'gpt': there is qformer or bert"),
        (["--device", "abacus"], "this torch runs on cpu"),
        (["--device", "cpu", "--memory-cap", "80"], "--memory-cap 80: caps the memory of a GPU, this run is on cpu"),
        (["--ops", "fast"], "there is longreel, reference"),
        (["--ops", "reference", "--compare"], "runs that path alone"),
        (["--checkpoint", "/nowhere"], "not a checkpoint folder"),
        (["--question", "x" * 65], "reads at most 64"),
        (["--json", "/nowhere/at/all.jsonl"], "cannot be written"),
        (["--plot", "/nowhere/at/all.png"], "cannot be written"),
        (["--plot", "run.mp3"], "must end in .png or .svg or .pdf"),
        (["--features", "run.pt"], "must end in .safetensors"),
        (["--frames", "fps:300"], "positions"),
    ],
)
def test_bad_options_are_one_line(small: Preset, clip: Path, options: list[str], said: str) -> None:
    given = options if "--preset" in options else [*options, "--preset", small.name]
    refused(call("run", clip, *given), said)


def refused(result: Result, said: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "Traceback" not in result.output


def test_frames_of_features_were_chosen_before(tmp_path: Path, small: Preset, clip: Path) -> None:
    out = tmp_path / "a.safetensors"
    assert call("extract", clip, "--out", out, "--preset", small.name).exit_code == 0
    for command in (["run", out], ["profile", out]):
        result = call(*command, "--preset", small.name, "--frames", "fps:1")
        refused(result, f"--frames fps:1: {out} holds features, its frames were chosen before")


def test_features_of_another_tower(tmp_path: Path, small: Preset, clip: Path) -> None:
    out = tmp_path / "a.safetensors"
    assert call("extract", clip, "--out", out, "--preset", small.name).exit_code == 0
    refused(call("run", out, "--preset", "tiny"), "made with preset 'small-for-tests', this run has preset 'tiny'")
    refused(call("extract", out, "--out", tmp_path / "b.safetensors", "--preset", small.name), "holds features already")
    refused(call("extract", clip, "--out", tmp_path / "b.pt", "--preset", small.name), "must end in .safetensors")
