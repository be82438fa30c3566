"""Whole systems on the card, tiny, from a feature file: the reference path's numbers in bfloat16, and its memory capped."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from longreel.cli.run_view import agreement
from longreel.cli.session import NO_ROOM, SYSTEMS
from longreel.cli.systems import setup_of
from longreel.models.feed import feature_writer

each_system = pytest.mark.parametrize("system", SYSTEMS)


def features(folder: Path, system: str) -> Path:
    """The tower's features of 12 frames of noise."""
    path, setup = folder / "f.safetensors", setup_of(system, "tiny", None, "cuda")
    writer = feature_writer(
        str(path), system, setup.preset, {"kind": "video"}, num_prefix_tokens=setup.prefix, device=setup.device
    )
    pixels = torch.randint(0, 256, (12, setup.preset.tower.image, setup.preset.tower.image, 3), dtype=torch.uint8)
    with writer, torch.inference_mode():
        model = setup.model(setup.prefix, None)
        assert model.dtype == torch.bfloat16
        assert {p.device.type for p in model.parameters()} == {"cuda"}
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        writer.add(model.encode(pixels).cpu(), torch.arange(12.0))
    return path


@each_system
def test_a_run_agrees_with_the_reference(tmp_path: Path, system: str) -> None:
    path, setup = features(tmp_path, system), setup_of(system, "tiny", None, "cuda")
    questions = setup.questions(["What is it?", "Why?"], 8)
    source, prefix = setup.open([path], None, 5)
    with source:
        model = setup.model(prefix, source, questions)
        record = setup.run(model, source, questions, compare=True)
    verdict = agreement(record, model.dtype)
    assert verdict.why is None
    assert record.visual["longreel"].device.type == "cuda"
    assert record.peak() > 2**20
    assert all(record.until_first_id(path) > 0 for path in ("longreel", "reference"))


@each_system
def test_what_does_not_fit_is_one_line(tmp_path: Path, system: str) -> None:
    """A cap is a process's own."""
    command = [
        sys.executable,
        "-c",
        "from longreel.cli.main import main; main()",
        "run",
        str(features(tmp_path, system)),
    ]
    for cap, code in (("8", 0), ("0.001", NO_ROOM)):
        options = ["--system", system, "--memory-cap", cap, "--device", "cuda", "--ops", "reference"]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert done.stderr.startswith("longreel: CUDA out of memory")
    assert len(done.stderr.splitlines()) == 1
