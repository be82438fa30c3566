"""`--system voco-llama` from end to end: it looks and behaves as llama-vid does, and keeps the VoCo tokens' rows alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_run import call, refused
from torch import Tensor
from typer.testing import Result

from longreel.cache import VoCoCache
from longreel.cli.console import NO_ROOM
from longreel.models.sizes import LanguageSize, TowerSize
from longreel.models.voco_llama import PRESETS, Preset, VoCoLlama, dense

SMALL = Preset(
    name="small-for-tests",
    tower=TowerSize(image=56, patch=14, width=32, layers=1, heads=2, mlp=64),
    language=LanguageSize(width=32, layers=2, heads=4, kv_heads=2, mlp=64, vocabulary=261, positions=512),
    chunk=4,
    at_once=3,
)
ROWS = 16 + 1 + 1  # vision, newline, one VoCo token


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Preset:
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)
    return SMALL


def run(tmp_path: Path, *arguments: object) -> tuple[Result, dict[str, Any]]:
    """A run that must succeed, and its line of JSON."""
    lines = tmp_path / "run.jsonl"
    given = ["--system", "voco-llama", "--preset", SMALL.name, "--json", lines]
    result = call("run", *arguments, *given)
    assert result.exit_code == 0, result.output
    return result, json.loads(lines.read_text().splitlines()[-1])


def noise(seed: int) -> Image.Image:
    values = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(values.numpy())


def test_a_video(tmp_path: Path, small: Preset, clip: Path) -> None:
    picture = tmp_path / "run.png"
    result, line = run(tmp_path, clip, "--frames", "fps:5", "--plot", picture)
    assert (line["frames"], line["patches"], line["tokens"], line["rows"]) == (10, 160, 10, 1 + 10 * ROWS)
    assert list(line["stages_s"]["longreel"]) == ["decode", "tower", "vision", "language", "other"]
    assert line["tokens_bytes"] == 10 * 2 * 2 * 2 * 8 * 4
    assert line["backend"] == "cpu"
    assert line["memory_by_frames"][0][0] == 4
    assert "10 frames in" in result.stdout.splitlines()[0]
    assert "10 tokens cached, of 181: 94.48% less" in result.stdout
    assert "No answer, random weights" in result.stdout
    assert result.stderr == ""
    assert max(map(len, result.stdout.splitlines())) <= 100
    with Image.open(picture) as image:
        assert min(image.size) > 500


def test_the_reference_path_alone(tmp_path: Path, small: Preset, clip: Path) -> None:
    """The same ids as in a comparison, of the first frames; a mask that a CPU should not be asked for is refused."""
    _, both = run(tmp_path, clip, "--frames", "fps:5", "--count", 4, "--compare")
    result, line = run(tmp_path, clip, "--frames", "fps:5", "--count", 4, "--ops", "reference")
    assert "4 frames in" in result.stdout.splitlines()[0]
    assert "reference path" in result.stdout.splitlines()[0]
    assert line["questions"][0]["ids"] == both["questions"][0]["ids"]
    assert (line["frames"], line["tokens"], line["backend"]) == (4, 1 + 4 * ROWS, "reference")
    assert list(line["stages_s"]["reference"]) == ["decode", "tower", "vision", "language", "other"]
    assert line["first_token_s"]["reference"] > 0
    assert both["tokens_per_s"].keys() == {"longreel", "reference"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "MASK_BYTES", 1000)
        given = ["--system", "voco-llama", "--preset", small.name, "--ops", "reference"]
        refused(call("run", clip, *given), "dense mask", NO_ROOM)
        refused(call("run", clip, *given, "--keep", tmp_path / "k.safetensors"), "--save-memory needs longreel's")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--mode", "causal", "--voco", "3"],
        ["--positions", "absolute", "--backend", "reference"],
    ],
    ids=" ".join,
)
def test_compare(tmp_path: Path, small: Preset, clip: Path, options: list[str]) -> None:
    """Both questions, keys and values and logits, against the dense mask and float64."""
    given = ["--frames", "fps:5", "--question", "a", "--question", "why is it?", *options]
    result, line = run(tmp_path, clip, "--compare", *given)
    assert line["passed"]
    assert 0 < line["error_over_budget"] <= 1
    assert list(line["stage_ratios"]) == ["vision", "language"]
    assert line["end_to_end_ratio"] == pytest.approx(line["total_s"]["reference"] / line["total_s"]["longreel"])
    assert "same numbers   yes" in result.stdout
    _, alone = run(tmp_path, clip, *given)
    assert [one["ids"] for one in alone["questions"]] == [one["ids"] for one in line["questions"]]


def test_compare_on_the_frames_that_fit(
    tmp_path: Path, small: Preset, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "MASK_BYTES", 4 * 100**2)
    result, line = run(tmp_path, clip, "--frames", "fps:5", "--compare", "--question", "why?")
    assert (line["frames"], line["compared"]["frames"], line["passed"]) == (10, 4, True)
    assert "reference" not in line["total_s"]
    assert list(line["compared"]["stage_ratios"]) == ["vision", "language"]
    said = " ".join(result.stdout.split())
    assert "compared on the first 4 frames" in said
    assert "10 frames' would take" in said
    refused(
        call("profile", clip, "--system", "voco-llama", "--count", 1, "--count", 2, "--frames", "fps:5", "--mode", "x"),
        "there is independent or causal",
    )


def test_wrong_numbers_fail(tmp_path: Path, small: Preset, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = VoCoLlama.read

    def wrong(self: VoCoLlama, features: Tensor, **options: Any) -> VoCoCache:
        return right(self, features * 1.0001, **options)

    monkeypatch.setattr(VoCoLlama, "read", wrong)
    result = call("run", clip, "--system", "voco-llama", "--preset", SMALL.name, "--compare")
    assert result.exit_code == 1
    assert "NO:" in result.stdout


def test_a_second_question_sees_nothing_again(
    tmp_path: Path, small: Preset, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    right = VoCoCache.append

    def counted(self: VoCoCache, decoder: Any, embeds: Tensor, *rest: Any, **named: Any) -> None:
        seen.append(embeds.shape[1])
        right(self, decoder, embeds, *rest, **named)

    monkeypatch.setattr(VoCoCache, "append", counted)
    _, one = run(tmp_path, clip, "--frames", "fps:5", "--question", "why?")
    rows = list(seen)
    seen.clear()
    _, both = run(tmp_path, clip, "--frames", "fps:5", "--question", "what is it?", "--question", "why?")
    # One black frame, then 10 frames in chunks of 4, three at once at most.
    assert seen == rows == [1 + ROWS, 1 + 3 * ROWS, ROWS, 3 * ROWS, ROWS, 2 * ROWS]
    assert both["questions"][1]["checksum"] == one["questions"][0]["checksum"]


def test_extract_then_run(tmp_path: Path, small: Preset, clip: Path) -> None:
    out, kept = tmp_path / "clip.safetensors", tmp_path / "kept.safetensors"
    given = ["--system", "voco-llama", "--preset", SMALL.name, "--frames", "fps:5"]
    result = call("extract", clip, "--out", out, *given)
    assert result.exit_code == 0, result.output
    assert "[10, 16, 32] float32" in result.stdout
    _, from_video = run(tmp_path, clip, "--frames", "fps:5", "--features", kept)
    assert out.stat().st_size == kept.stat().st_size
    for file in (out, kept):
        _, later = run(tmp_path, file, "--compare")
        assert not {"decode", "tower", "write"} & set(later["stages_s"]["longreel"])
        assert [one["ids"] for one in later["questions"]] == [one["ids"] for one in from_video["questions"]]
        assert later["passed"]
    refused(call("run", out), "made with system 'voco-llama', this run has system 'llama-vid'")


def test_what_is_kept_answers_later(tmp_path: Path, small: Preset, clip: Path) -> None:
    """A file of VoCo tokens' rows: another question takes neither decoding nor tower nor first stage."""
    kept = tmp_path / "kept.safetensors"
    given = ["--frames", "fps:5", "--voco", 2, "--mode", "causal"]
    _, first = run(tmp_path, clip, *given, "--keep", kept, "--question", "why?")
    _, whole = run(tmp_path, clip, *given, "--question", "what is it?")
    result, later = run(tmp_path, kept, "--question", "what is it?", "--question", "why?")
    assert list(later["stages_s"]["longreel"]) == ["load", "language", "other"]
    assert (later["frames"], later["patches"], later["tokens"]) == (10, 160, 20)
    assert later["rows"] == first["rows"]
    assert all(one["seconds"] > 0 for one in later["questions"]), "what a question costs by itself"
    assert [one["ids"] for one in later["questions"]] == [line["questions"][0]["ids"] for line in (whole, first)]
    assert "20 tokens cached, of 191" in result.stdout
    assert [path.name for path in tmp_path.glob("*.part")] == []
    again = ["--system", "voco-llama", "--preset", SMALL.name]
    for options, said in (
        (["--compare"], "keeps no frames, it answers questions about all 10 of them"),
        (["--features", tmp_path / "f.safetensors"], "keeps no frames"),
        (["--count", 3], "keeps no frames"),
        (["--ops", "reference"], "keeps no frames"),
        (["--voco", 1], "made with --voco 2, this run has 1"),
        (["--frames", "fps:1"], f"--frames fps:1: {kept} holds a saved memory"),
        (["--chunk", 4], f"--chunk 4: {kept} holds a saved memory"),
    ):
        refused(call("run", kept, *again, *options), said)
    refused(call("extract", kept, *again, "--out", tmp_path / "f.safetensors"), "keeps no frames")
    refused(
        call("run", kept, "--system", "voco-llama"), "made with preset 'small-for-tests', this run has preset 'tiny'"
    )
    refused(call("run", kept), "a memory saved by voco-llama, this run is llama-vid")


def test_a_memory_of_the_first_version_answers(tmp_path: Path, small: Preset, clip: Path) -> None:
    """Written tensor by tensor as the first version did; another preset's is refused, and another system's."""
    kept, old = tmp_path / "kept.safetensors", tmp_path / "old.safetensors"
    _, line = run(tmp_path, clip, "--frames", "fps:5", "--keep", kept)
    held = load_file(kept)
    tensors = {name: held[name] for i in range(2) for name in (f"keys.{i}", f"values.{i}")}
    about = {
        "system": "voco-llama", "preset": SMALL.name, "weights": "random, seed 0", "frames": 10, "patches": 160,
        "tower": "TowerSize(image=56, patch=14, width=32, layers=1, heads=2, mlp=64)",
        "language": "LanguageSize(width=32, layers=2, heads=4, kv_heads=2, mlp=64, vocabulary=261, positions=512,"
        " rope_factor=1.0)",
        "options": {"voco": 1, "mode": "independent", "positions": "compact"},
    }  # fmt: skip
    own = {
        "format": "longreel-voco-cache/1", "layers": 2, "about": about, "mode": "independent", "text_sees_prefix": False,
        "prefix_visible_to": "first", "positions": "compact",
        "held": {"prefix": 0, "voco": 10, "frame_at": 11, "text_at": 28},
    }  # fmt: skip
    save_file(tensors, old, {"longreel": json.dumps(own)})
    _, now = run(tmp_path, kept, "--question", "why?")
    _, later = run(tmp_path, old, "--question", "why?")
    assert [one["ids"] for one in later["questions"]] == [one["ids"] for one in now["questions"]]
    assert (later["frames"], later["tokens"], later["rows"]) == (10, line["tokens"], line["rows"])
    save_file(
        tensors, old, {"longreel": json.dumps(own | {"about": about | {"tower": about["tower"].replace("56", "70")}})}
    )
    refused(call("run", old, "--system", "voco-llama", "--preset", SMALL.name), "made with tower")


def test_the_reference_path_keeps_nothing(tmp_path: Path, small: Preset, clip: Path) -> None:
    result, line = run(tmp_path, clip, "--frames", "fps:5", "--compare", "--keep", tmp_path / "kept.safetensors")
    assert line["stages_s"]["longreel"]["save"] > 0
    assert line["stages_s"]["reference"]["save"] == 0
    row = next(row for row in result.stdout.splitlines() if "write saved memory" in row)
    assert row.split("%")[1].split()[:2] == ["–", "–"]
    assert "same code" in next(row for row in result.stdout.splitlines() if "vision tower" in row)


@pytest.mark.parametrize("left", [-1, -1000])
def test_kept_rows_cut_short(tmp_path: Path, small: Preset, clip: Path, left: int) -> None:
    kept, cut = tmp_path / "kept.safetensors", tmp_path / "cut.safetensors"
    run(tmp_path, clip, "--frames", "fps:5", "--keep", kept)
    whole = kept.read_bytes()
    cut.write_bytes(whole[:left])
    said = f"{cut}: cut short, {len(whole) + left} bytes of {len(whole)}"
    refused(call("run", cut, "--system", "voco-llama", "--preset", SMALL.name), said)
    refused(call("run", cut), said)
    refused(call("extract", cut, "--out", tmp_path / "f.safetensors"), said)
    refused(call("extract", kept, "--out", tmp_path / "f.safetensors"), "a memory saved by voco-llama")


def test_images(tmp_path: Path, small: Preset) -> None:
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.png")
        noise(60 + index).save(paths[-1])
    result, one = run(tmp_path, paths[0], "--compare", "--voco", 2)
    assert "1 frame in" in result.stdout.splitlines()[0]
    assert (one["frames"], one["tokens"], one["passed"]) == (1, 2, True)
    _, several = run(tmp_path, *paths, "--compare", "--mode", "causal")
    assert (several["frames"], several["tokens"], several["passed"]) == (3, 3, True)


def test_what_is_seen_matters(tmp_path: Path, small: Preset) -> None:
    """Other pictures, other keys and values in every layer but the first, and other logits: weights are drawn wide enough."""
    pictures = (Image.new("RGB", (80, 60), (200, 30, 20)), noise(0))
    model, rows, logits = VoCoLlama(small, count=1, mode="independent", shared=False), [], []
    for name, picture in zip("ab", pictures, strict=True):
        path, kept = tmp_path / f"{name}.png", tmp_path / f"{name}.safetensors"
        picture.save(path)
        run(tmp_path, path, "--question", "what?", "--keep", kept)
        rows.append({name: value for name, value in load_file(kept).items() if name != "segments"})
        logits.append(model.answer(VoCoCache.load(kept, model.language.config), torch.arange(5, 9), length=1)[1])
    for name, value in rows[0].items():
        # A VoCo token has seen nothing yet where the first layer makes its keys and values.
        assert ((value - rows[1][name]).norm() > 0.01 * value.norm()) == (not name.endswith(".0")), name
    assert (logits[0] - logits[1]).norm() > 0.01 * logits[0].norm()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "7b-336"], "voco-llama has tiny, small, 7b"),
        (["--mode", "image"], "there is independent or causal"),
        (["--positions", "relative"], "there is compact or absolute"),
        (["--equation", "paper"], "--equation: an option of llama-vid, this run is voco-llama"),
        (["--tokens-per-frame", "4"], "--tokens-per-frame: an option of llama-vid"),
        (["--drop-cls"], "--drop-cls: an option of llama-vid"),
        (["--backend", "nonsense"], "nonsense"),
        (["--question", ""], "a question is empty"),
        (["--frames", "fps:25", "--positions", "absolute"], "more than the language model's 512: 2"),
        (["--checkpoint", "/nowhere"], "not a checkpoint folder"),
    ],
)
def test_bad_options_are_one_line(small: Preset, clip: Path, options: list[str], said: str) -> None:
    given = options if "--preset" in options else [*options, "--preset", SMALL.name]
    refused(call("run", clip, "--system", "voco-llama", *given), said)


def test_options_of_voco_llama_alone(clip: Path) -> None:
    for option in (["--voco", "2"], ["--mode", "causal"], ["--positions", "compact"]):
        refused(call("run", clip, *option), f"{option[0]}: an option of voco-llama, this run is llama-vid")


def test_profile(tmp_path: Path, clip: Path) -> None:
    """Each run is a process of its own, which knows no preset of a test: `tiny`, few frames."""
    lines, picture = tmp_path / "p.jsonl", tmp_path / "p.png"
    given = ["--system", "voco-llama", "--frames", "fps:2", "--json", lines, "--plot", picture, "--compare"]
    result = call("profile", clip, "--count", 1, "--count", 3, *given)
    assert result.exit_code == 0, result.output
    first, second, growth = (json.loads(line) for line in lines.read_text().splitlines())
    assert (first["tokens"], second["tokens"]) == (1, 3)
    assert first["passed"]
    assert set(growth["stage_exponents"]) == {"decode", "tower", "vision", "language", "other"}
    with Image.open(picture) as image:
        assert min(image.size) > 500
