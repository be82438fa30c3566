"""What a user gets wrong first, of every system and every command: one line, before a model is made."""

import struct
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_run import call, refused

from longreel.models.registry import SYSTEMS

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("given")
    (made / "empty.mp4").write_bytes(b"")
    (made / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    Image.new("RGB", (32, 32)).save(made / "picture.png")
    save_file({"a": torch.ones(3)}, made / "foreign.safetensors")
    (made / "cut.safetensors").write_bytes((made / "foreign.safetensors").read_bytes()[:-4])
    (made / "huge.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    (made / "folder").mkdir()
    return made


BROKEN = {
    "empty.mp4": "the file is empty",
    "noise.mp4": "not a video or image that can be read",
    "none.mp4": "no such file",
    "folder": "is a directory",
    "foreign.safetensors": "not a feature file",
    "cut.safetensors": "cut short",
    "huge.safetensors": "no safetensors header",
}


@pytest.mark.parametrize("system", sorted(SYSTEMS))
@pytest.mark.parametrize("name", BROKEN)
def test_run_on_what_is_no_video(system: str, name: str, folder: Path) -> None:
    result = call("run", folder / name, "--system", system, "--preset", "tiny", "--question", "why?")
    refused(result, BROKEN[name])
    assert name in result.stderr


@pytest.mark.parametrize("name", [*BROKEN, "picture.png"])
def test_ask_what_is_no_memory(name: str, folder: Path) -> None:
    said = {"none.mp4": "no such file", "cut.safetensors": "cut short"}.get(name, "no saved memory")
    refused(call("ask", folder / name, "--question", "why?"), said)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("no/such/features.safetensors", "no/such is no folder"),
        ("picture.png/features.safetensors", "picture.png is no folder"),
        ("folder", "its name must end in .safetensors"),
        ("features.bin", "its name must end in .safetensors"),
    ],
)
def test_extract_to_where_nothing_can_be(out: str, said: str, folder: Path) -> None:
    refused(call("extract", folder / "picture.png", "--out", folder / out, "--preset", "tiny"), said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--json", "no/such.json"), "no is no folder"),
        (("--json", "folder"), "is a folder; allowed: a file's name"),
        (("--features", "no/such.safetensors"), "no is no folder"),
        (("--plot", "no/such.png"), "no is no folder"),
        (("--checkpoint", "folder"), "not a checkpoint folder (no config.json)"),
        (("--checkpoint", "none"), "not a checkpoint folder"),
    ],
)
def test_options_of_run_that_name_files(given: tuple[str, str], said: str, folder: Path) -> None:
    option, name = given
    preset = () if option == "--checkpoint" else ("--preset", "tiny")
    refused(call("run", folder / "picture.png", option, folder / name, *preset, "--question", "x"), said)
