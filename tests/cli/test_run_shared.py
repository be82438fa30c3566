"""One run in several processes: the numbers of one process, one line where something goes wrong, and no process that waits."""

import json
import socket
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from encoded import Encode
from forked import End, Place, call, end, start
from torch.distributed import TCPStore

from longreel.models.llama_vid import Preset
from longreel.models.processes import OtherFailedError, Processes
from longreel.ranks import Rank


@pytest.fixture(scope="module")
def video(encode: Encode) -> Path:
    """Forty frames at fps:10, with key frames to go to."""
    return encode("shared.mp4", frames=100, coder={"bf": "0"})


def begin(tmp_path: Path, small: Preset, count: int, arguments: list[object], patience: int = 600) -> list[BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = []
    for rank in range(count):
        (tmp_path / str(rank)).mkdir(exist_ok=True)
        variables = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables |= {"LONGREEL_PATIENCE": patience}
        place = Place(variables=tuple((name, str(value)) for name, value in variables.items()))
        begun.append(start(tmp_path / str(rank), small, arguments, place))
    return begun


def ends(tmp_path: Path, begun: list[BaseProcess]) -> list[End]:
    return [end(process, tmp_path / str(rank)) for rank, process in enumerate(begun)]


def numbers(line: dict[str, Any]) -> tuple[list[list[int]], list[str]]:
    """Ids, and the logits by their checksums."""
    assert len(line["logits_checksums"]) == 1
    return [each["ids"] for each in line["questions"]], line["logits_checksums"]


@pytest.mark.parametrize(
    ("system", "count"), [("llama-vid", 3), ("video-xl", 2), ("voco-llama", 2), ("video-llama", 2)]
)
def test_the_numbers_of_one_process(tmp_path: Path, small: Preset, video: Path, system: str, count: int) -> None:
    chosen = ["--preset", small.name, "--frames", "fps:10"]
    if system != "llama-vid":
        chosen = ["--preset", "tiny", "--frames", "uniform:5", "--chunk", "2", "--system", system, "--dtype", "float32"]
    lines = tmp_path / "lines.jsonl"
    arguments: list[object] = ["run", video, *chosen, "--json", lines]
    kept = [tmp_path / "alone.safetensors", tmp_path / "shared.safetensors"]
    saving = [["--save-memory", path] if system != "llama-vid" else [] for path in kept]
    alone = call(tmp_path, small, *arguments, *saving[0])
    assert alone.code == 0, alone.said
    found = ends(tmp_path, begin(tmp_path, small, count, [*arguments, *saving[1]]))
    assert [each.code for each in found] == [0] * count, [each.said for each in found]
    assert [each.out for each in found[1:]] == [""] * (count - 1)
    assert f"processes      {count};" in found[0].out
    one, shared = map(json.loads, lines.read_text().splitlines())
    for name in ("frames", "patches", "tokens", "tokens_bytes"):
        assert one[name] == shared[name], name
    assert numbers(one) == numbers(shared)
    assert (one["processes"], shared["processes"]) == (1, count)
    if saving[0]:
        assert kept[0].read_bytes() == kept[1].read_bytes()


def test_features_are_shared_too(tmp_path: Path, small: Preset, video: Path) -> None:
    features, lines = tmp_path / "features.safetensors", tmp_path / "lines.jsonl"
    made = call(tmp_path, small, "extract", video, "--out", features, "--preset", small.name, "--frames", "fps:10")
    assert made.code == 0, made.said
    arguments: list[object] = ["run", features, "--preset", small.name, "--count", 27, "--json", lines]
    assert call(tmp_path, small, *arguments).code == 0
    found = ends(tmp_path, begin(tmp_path, small, 2, arguments))
    assert [each.code for each in found] == [0, 0], found
    one, shared = map(json.loads, lines.read_text().splitlines())
    assert one["frames"] == shared["frames"] == 27
    assert numbers(one) == numbers(shared)


def test_what_goes_wrong_is_said_once(tmp_path: Path, small: Preset, video: Path) -> None:
    arguments: list[object] = ["run", tmp_path / "nothing.mp4", "--preset", small.name]
    found = ends(tmp_path, begin(tmp_path, small, 2, arguments))
    assert [each.code for each in found] == [2, 2]
    assert sorted(len(each.said) for each in found) == [0, 1], found
    assert [line for each in found for line in each.said] == [f"longreel: {tmp_path}/nothing.mp4: no such file"]


def test_a_start_knows_nothing_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun has one store for all starts of `--max-restarts`: that the first one failed is no news of the second."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "RANK": "0", "WORLD_SIZE": "2"}
    for name, value in (variables | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert Processes(Rank(0, 2)).fail(143)
    with pytest.raises(OtherFailedError):
        Processes(Rank(0, 2)).check()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    Processes(Rank(0, 2)).check()


def test_a_killed_process_ends_the_others(tmp_path: Path, small: Preset, video: Path) -> None:
    arguments: list[object] = ["run", video, "--preset", small.name]
    begun = begin(tmp_path, small, 2, arguments, patience=3)
    begun[1].kill()
    found = end(begun[0], tmp_path / "0")
    begun[1].join()
    assert found.code == 2
    assert len(found.said) == 1
    assert "longreel: process 1 of 2: " in found.said[0]
