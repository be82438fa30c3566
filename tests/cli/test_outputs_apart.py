"""No run replaces its input, or one of its outputs by another: refused in one line, before anything is opened."""

import os
from pathlib import Path

import pytest
from test_run import call, refused

INPUTS = ("a.safetensors", "a.png")


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with inputs under several names, which is also the working folder."""
    for name in INPUTS:
        (tmp_path / name).write_bytes(b"kept as it is")
    os.link(tmp_path / "a.safetensors", tmp_path / "hard.safetensors")
    (tmp_path / "soft.safetensors").symlink_to("a.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.safetensors").symlink_to("new.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "run a.safetensors --system voco-llama --keep a.safetensors",
            "--save-memory a.safetensors: is the file of the input",
        ),
        ("run a.safetensors --features folder/../a.safetensors", "is the file of the input"),
        ("run a.safetensors --features hard.safetensors", "is the file of the input"),
        ("run soft.safetensors --features a.safetensors", "is the file of the input"),
        ("run a.safetensors --json a.safetensors", "--json a.safetensors: is the file of the input"),
        ("run a.png a.safetensors --plot a.png", "--plot a.png: is the file of the input"),
        ("run a.png --json b.png --plot b.png", "--plot b.png: is the file of --json"),
        ("run a.png --features b.safetensors --json b.safetensors", "--json b.safetensors: is the file of --features"),
        (
            "run a.png --system voco-llama --features new.safetensors --keep dangling.safetensors",
            "--save-memory dangling.safetensors: is the file of --features",
        ),
        ("extract a.safetensors --out hard.safetensors", "--out hard.safetensors: is the file of the input"),
        ("extract a.png --out b.safetensors --json ./b.safetensors", "is the file of --out"),
        ("profile a.png --plot a.png", "--plot a.png: is the file of the input"),
        ("profile a.safetensors --json b.png --plot b.png", "--plot b.png: is the file of --json"),
    ],
)
def test_a_file_is_not_written_over(held: Path, arguments: str, said: str) -> None:
    before = sorted(held.iterdir())
    refused(call(*arguments.split()), said)
    assert sorted(held.iterdir()) == before
    assert all((held / name).read_bytes() == b"kept as it is" for name in INPUTS)
