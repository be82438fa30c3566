"""Whole systems on the card, tiny, from a feature file: the reference path's numbers in bfloat16, and its memory capped."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from longreel.cli.console import NO_ROOM
from longreel.models.inputs import Input, feature_writer
from longreel.models.registry import SYSTEMS
from longreel.models.setup import setup_of
from longreel.models.system import InputFacts
from longreel.parity.agreement import agreement

each_system = pytest.mark.parametrize("system", SYSTEMS)


def features(folder: Path, system: str) -> Path:
    """The tower's features of 12 frames of noise."""
    path, setup = folder / "f.safetensors", setup_of(system, "tiny", None, "cuda")
    writer = feature_writer(
        str(path), system, setup.preset, {"kind": "video"}, num_prefix_tokens=setup.prefix, device=setup.device
    )
    pixels = torch.randint(0, 256, (12, setup.preset.tower.image, setup.preset.tower.image, 3), dtype=torch.uint8)
    with writer, torch.inference_mode():
        model = setup.model(Input(InputFacts(setup.prefix, False, 12)))
        assert model.dtype == torch.bfloat16
        assert {p.device.type for p in model.parameters()} == {"cuda"}
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        writer.add(model.encode(pixels).cpu(), torch.arange(12.0))
    return path


@each_system
def test_a_run_agrees_with_the_reference(tmp_path: Path, system: str) -> None:
    path, setup = features(tmp_path, system), setup_of(system, "tiny", None, "cuda")
    prompts = setup.prompts(["What is it?", "Why?"], 8)
    with setup.open([path], None, 5) as source:
        model = setup.model(source, prompts)
        record = setup.run(model, source, prompts, compare=True)
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
