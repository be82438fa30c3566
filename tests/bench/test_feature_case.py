from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from longreel.bench.cases import CASES, measure
from longreel.bench.feature_case import FeatureCase
from longreel.cli.main import app
from longreel.data import FeatureWriter


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Seven frames of CLS and 4 x 4 patches, the number of the frame in each."""
    path = tmp_path / "f.safetensors"
    with FeatureWriter(path, 17, 32, torch.float32, {}) as writer:
        writer.add(torch.randn(7, 17, 32) + torch.arange(7.0)[:, None, None], torch.arange(7.0))
    return path


def case(features: Path, frames: int | None = None, backward: str = "none") -> FeatureCase:
    shape = CASES["compress_frames"].SIZES["small"]
    plain = CASES["compress_frames"]("compress_frames", shape, torch.float32, torch.device("cpu"), backward)
    return FeatureCase.of(plain, features, frames)


def test_the_patches_are_the_files(features: Path) -> None:
    made = case(features)
    assert (made.shape.frames, made.shape.patches, made.shape.width) == (7, 16, 32)
    means = made.tensors["patches"].mean((1, 2)).round().tolist()
    assert means == list(range(7))
    assert case(features, 100).tensors["patches"].mean((1, 2)).round().tolist()[61:66] == list(range(5))
    assert made.facts["features"] == "f.safetensors"


@pytest.mark.parametrize("backward", ["none", "all"])
def test_measured_and_checked(features: Path, backward: str) -> None:
    report = measure(case(features, 70, backward), names=["reference", "strong"], repeats=1, min_time=0.0)
    assert all(outcome.samples for outcome in report.outcomes)


def test_from_the_command_line(features: Path, tmp_path: Path) -> None:
    command = ["bench", "--size", "small", "--features", str(features), "--dtype", "fp32", "--repeats", "1"]
    result = CliRunner().invoke(app, [*command, "--op", "adaptive_pool", "--backend", "reference", "--peer", "strong"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, [*command, "--op", "block_sparse_attention"])
    assert result.exit_code == 2
    assert "has no patches" in " ".join(result.output.split())
    features.write_bytes(b"")
    result = CliRunner().invoke(app, [*command, "--op", "adaptive_pool"])
    assert result.exit_code == 2
