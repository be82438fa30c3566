"""A folder of videos, a share a process: ended, killed, started again, with a broken file in it."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from encoded import Encode
from forked import Launched, Place, call, end, start

from longreel.data import FeatureShards, FeatureStream
from longreel.models.llama_vid import Preset

CLIPS, BROKEN, LONG = 20, 4, 9


def place(rank: int, count: int = 2) -> Place:
    """As torchrun starts one."""
    return Place(variables=(("RANK", str(rank)), ("WORLD_SIZE", str(count)), ("TORCHELASTIC_RUN_ID", "none")))


def until(found: Callable[[], object], process: BaseProcess | Launched) -> None:
    for _ in range(50_000):
        if found():
            return
        assert process.is_alive()
        time.sleep(0.002)
    pytest.fail("it hangs")


@pytest.fixture(scope="module")
def kinds(encode: Encode) -> list[Path]:
    """Three short ones, and a long one."""
    return [*(encode(f"{index}.mp4", frames=10 + index) for index in range(3)), encode("long.mp4", frames=200)]


def twenty(folder: Path, kinds: list[Path]) -> Path:
    """Clips, the one of number `BROKEN` cut in its middle, that of number `LONG` long; and what is no video."""
    (folder / "b").mkdir(parents=True)
    for index in range(CLIPS):
        name = folder / ("b" * (index > 9)) / f"{index:02}.mp4"
        shutil.copy(kinds[3 if index == LONG else index % 3], name)
        if index == BROKEN:
            name.write_bytes(name.read_bytes()[:900])
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture
def clips(tmp_path: Path, kinds: list[Path]) -> Path:
    return twenty(tmp_path / "clips", kinds)


@dataclass(frozen=True)
class Whole:
    """Twenty clips, and what one process makes of them."""

    clips: Path
    out: Path

    def command(self, out: Path, small: Preset) -> list[object]:
        return ["extract", self.clips, "--out", out, "--preset", small.name, "--frames", "fps:25"]

    def check(self, shared: Path) -> None:
        """The same files are there, 19 of them features, bit for bit."""
        names = sorted(path.relative_to(self.out) for path in self.out.rglob("*") if path.is_file())
        assert names == sorted(path.relative_to(shared) for path in shared.rglob("*") if path.is_file())
        assert len([name for name in names if name.suffix == ".safetensors"]) == 19
        assert all((self.out / name).read_bytes() == (shared / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, sizes: Preset, kinds: list[Path]) -> Whole:
    place = tmp_path_factory.mktemp("alone")
    whole = Whole(twenty(place / "clips", kinds), place / "out")
    ended = call(place, sizes, *whole.command(whole.out, sizes))
    assert ended.code == 1
    assert ended.said[-1].startswith(f"longreel: {whole.clips}/04.mp4: ")
    assert "20 videos, 19 written" in ended.out
    assert "1 cannot be read" in ended.out
    return whole


def folder_of(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path / name


def test_twenty_clips_one_broken_one_process_killed(tmp_path: Path, small: Preset, alone: Whole) -> None:
    shared = tmp_path / "shared"
    command = alone.command(shared, small)
    first = start(folder_of(tmp_path, "1"), small, command, place(0))
    second = start(folder_of(tmp_path, "2"), small, command, place(1))
    until(lambda: list(shared.glob(f".{LONG:02}.mp4.safetensors-*.part")), second)
    second.kill()
    second.join(60)
    assert second.exitcode == -9
    made = {path.name for path in shared.rglob("*.safetensors")}
    assert "07.mp4.safetensors" in made
    assert "19.mp4.safetensors" not in made
    # The broken one is known by now, and its process waits: torchrun starts all again as soon as one fails.
    until((shared / "04.mp4.error").exists, first)
    assert first.is_alive()

    again = call(folder_of(tmp_path, "3"), small, *command, place=place(1))
    assert again.code == 0, again.said
    assert "process 2 of 2: 10 videos, 6 written" in again.out
    assert "4 were there" in again.out
    ended = end(first, folder_of(tmp_path, "1"))
    assert ended.code == 1
    assert "process 1 of 2: 10 videos, 9 written" in ended.out

    alone.check(shared)
    with FeatureStream(shared / f"{LONG:02}.mp4.safetensors") as stream:
        assert stream.expected == 200
    assert [item["name"] for item in (FeatureShards(shared)[0], FeatureShards(shared)[18])] == ["00.mp4", "b/19.mp4"]


def test_twenty_clips_under_torchrun(
    tmp_path: Path, sizes: Preset, alone: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `torchrun --nproc-per-node 2 --max-restarts 1` starts them, and both again when one is killed; in a gloo group, too."""
    # A store that torch keeps for both starts has the first group's addresses.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    shared = tmp_path / "shared"
    launched = Launched(tmp_path, sizes, alone.command(shared, sizes), group=True)
    until(lambda: list(shared.glob(f".{LONG:02}.mp4.safetensors-*.part")), launched)
    launched.kill(1)
    first, second = launched.join()
    # The broken one, at the very end: the kill has taken the one restart.
    assert launched.ended == {0: 1}
    assert "process 1 of 2: 10 videos, " in first
    assert "1 cannot be read" in first
    assert "process 2 of 2: 10 videos, 6 written" in second
    assert "4 were there" in second
    alone.check(shared)


def test_done_is_left_out_cut_is_made_again(tmp_path: Path, small: Preset, clips: Path) -> None:
    for path in (clips / f"{BROKEN:02}.mp4", clips / f"{LONG:02}.mp4"):
        path.unlink()
    shutil.rmtree(clips / "b")
    out = tmp_path / "out"
    command = ["extract", clips, "--out", out, "--preset", small.name]
    assert call(tmp_path, small, *command).code == 0
    kept, cut = out / "00.mp4.safetensors", out / "01.mp4.safetensors"
    before, size = kept.stat().st_mtime_ns, cut.stat().st_size
    os.truncate(cut, size // 2)
    again = call(tmp_path, small, *command)
    assert again.code == 0
    assert "1 written" in again.out
    assert "7 were there" in again.out
    assert (kept.stat().st_mtime_ns, cut.stat().st_size) == (before, size)
    # Features of other frames are not taken for these, and not replaced.
    other = call(tmp_path, small, *command, "--frames", "fps:5")
    assert other.code == 1
    assert "8 cannot be read" in other.out
    assert other.said[0] == f"longreel: {kept}: made with --frames fps:1, this run has fps:5"
    assert kept.stat().st_mtime_ns == before
    wide = call(tmp_path, small, *command, "--dtype", "bfloat16")
    assert wide.code == 1
    assert wide.said[0] == f"longreel: {kept}: features are float32, this run's are bfloat16; --dtype"


def test_a_video_that_was_replaced_is_made_again(tmp_path: Path, small: Preset, kinds: list[Path]) -> None:
    folder, out = folder_of(tmp_path, "clips"), tmp_path / "out"
    command = ["extract", folder, "--out", out, "--preset", small.name, "--frames", "fps:25"]
    for name in ("a", "b"):
        shutil.copy(kinds[0], folder / f"{name}.mp4")
    assert call(tmp_path, small, *command).code == 0
    shutil.copy(kinds[1], folder / "b.mp4")
    again = call(tmp_path, small, *command)
    assert "1 written (11 frames), 1 were there" in again.out


@pytest.mark.parametrize(
    ("variables", "out", "said"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "out", "longreel: RANK=2, WORLD_SIZE=2: ranks are 0 to WORLD_SIZE - 1, of at most"),
        ({"RANK": "0"}, "out", "longreel: RANK is set in the environment and WORLD_SIZE is not: set both, or neither"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "out", "longreel: RANK='x' in the environment: must be a number from 0"),
        ({}, "out.safetensors", "features of a folder's videos go into a folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_out(
    tmp_path: Path, small: Preset, clips: Path, variables: dict[str, str], out: str, said: str
) -> None:
    arguments = ["extract", clips, "--out", tmp_path / out, "--preset", small.name]
    ended = call(tmp_path, small, *arguments, place=Place(variables=tuple(variables.items())))
    assert ended.code == 2
    assert len(ended.said) == 1
    assert said in ended.said[0]
    assert not (tmp_path / out).exists()
