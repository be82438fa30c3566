import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from longreel.data import FeatureStream, FeatureWriter, MediaError

pytestmark = pytest.mark.fast


def write(path: Path, features: torch.Tensor, chunk: int = 4) -> Path:
    with FeatureWriter(path, *features.shape[1:], features.dtype, {"preset": "p"}) as writer:
        for first in range(0, len(features), chunk):
            part = features[first : first + chunk]
            writer.add(part, torch.arange(first, first + len(part), dtype=torch.float64))
    return path


@pytest.mark.slow
def test_features_need_no_decoder(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", torch.randn(3, 2, 4))
    code = f"""
import sys
sys.modules["av"] = None
import longreel.data
import longreel.models.llama_vid.session
print(longreel.data.FeatureStream({str(path)!r}).shape)
try:
    longreel.data.frames({str(path)!r})
except ModuleNotFoundError as error:
    print(error.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(3, 2, 4)", "av"], done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 3, 10, 64])
def test_what_is_written_comes_back(tmp_path: Path, dtype: torch.dtype, chunk: int) -> None:
    features = torch.randn(10, 5, 8).to(dtype)
    stream = FeatureStream(write(tmp_path / "a.safetensors", features), chunk=chunk)
    assert (stream.expected, stream.shape, stream.dtype) == (10, (10, 5, 8), dtype)
    assert stream.about["preset"] == "p"
    chunks = list(stream)
    assert torch.equal(torch.cat([part.features for part in chunks]), features)
    assert torch.cat([part.times for part in chunks]).tolist() == list(range(10))
    assert {len(part.features) for part in chunks[:-1]} <= {chunk}


def test_it_is_plain_safetensors(tmp_path: Path) -> None:
    features = torch.randn(7, 5, 8)
    with safe_open(write(tmp_path / "a.safetensors", features), "pt") as file:
        assert sorted(file.keys()) == ["features", "times"]
        assert torch.equal(file.get_tensor("features"), features)
        assert file.get_tensor("times").tolist() == list(range(7))
        assert file.metadata() == {"format": "longreel-features/1", "preset": "p"}


def test_files_of_the_first_layout_open(tmp_path: Path) -> None:
    """Byte by byte as the first version wrote them, spaces behind the header included."""
    features = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    header = {
        "__metadata__": {"format": "longreel-features/1", "preset": "p", "kind": "video"},
        "features": {"dtype": "F32", "shape": [2, 3, 4], "data_offsets": [0, 96]},
        "times": {"dtype": "F64", "shape": [2], "data_offsets": [96, 112]},
    }
    text = json.dumps(header).encode().ljust(512)
    body = features.numpy().tobytes() + torch.tensor([0.0, 0.5], dtype=torch.float64).numpy().tobytes()
    path = tmp_path / "old.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    stream = FeatureStream(path)
    assert (stream.shape, stream.others, stream.about["kind"]) == ((2, 3, 4), (), "video")
    (chunk,) = stream
    assert torch.equal(chunk.features, features)
    assert chunk.times.tolist() == [0.0, 0.5]
    assert chunk.others == {}


def write_both(path: Path, sound: torch.Tensor, times: list[float], chunk: int) -> torch.Tensor:
    """Seven frames at 0, 1, ... 6 s, and what is heard in chunks of it."""
    features, at = torch.randn(7, 5, 8), torch.tensor(times, dtype=torch.float64)
    with FeatureWriter(path, 5, 8, torch.float32, {}, others=("audio",)) as writer:
        for first in range(0, 7, chunk):
            stamps = torch.arange(first, min(first + chunk, 7), dtype=torch.float64)
            now = (at <= stamps[-1]) & (at > (first - 1 if first else -1))
            others = {"audio": (sound[now], at[now])} if now.any() else None
            writer.add(features[first : first + chunk], stamps, others)
    return features


@pytest.mark.parametrize("written", [1, 3, 7])
@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_modalities_stand_beside(tmp_path: Path, written: int, chunk: int, dtype: torch.dtype) -> None:
    """Each comes with the first frames that are no earlier than it, whatever the chunks."""
    path, times = tmp_path / "a.safetensors", [0.0, 0.5, 1.25, 3.0, 5.5]
    sound = torch.randn(5, 2, 3).to(dtype)
    features = write_both(path, sound, times, written)
    stream = FeatureStream(path, chunk=chunk)
    assert (stream.about["format"], stream.others) == ("longreel-features/2", ("audio",))
    values, at = list[torch.Tensor](), list[float]()
    for part in stream:
        each, stamps = part.others["audio"]
        assert all(stamp <= part.times[-1] for stamp in stamps)
        values.append(each)
        at += stamps.tolist()
        assert len(at) == sum(time <= part.times[-1] for time in times)
    assert at == times
    assert torch.equal(torch.cat(values), sound)
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("features"), features)
        assert torch.equal(file.get_tensor("audio"), sound)


def test_other_modalities_that_do_not_fit(tmp_path: Path) -> None:
    path, frames = tmp_path / "a.safetensors", torch.zeros(1, 5, 8)
    with FeatureWriter(path, 5, 8, torch.float32, {}, others=("audio",)) as writer:
        writer.add(frames, torch.zeros(1), {"audio": (torch.zeros(2, 3), torch.zeros(2))})
        for bad in (torch.zeros(1, 4), torch.zeros(1, 3).half(), torch.zeros(2, 3)):
            with pytest.raises(ValueError, match="in a file of"):
                writer.add(frames, torch.zeros(1), {"audio": (bad, torch.zeros(1))})
        with pytest.raises(ValueError, match="depth: this file is made for features, audio"):
            writer.add(frames, torch.zeros(1), {"depth": (frames, torch.zeros(1))})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert FeatureStream(path).shape == (1, 5, 8)


def test_none_of_another_modality_is_the_first_layout(tmp_path: Path) -> None:
    plain, none = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write(plain, torch.ones(3, 5, 8))
    with FeatureWriter(none, 5, 8, torch.float32, {"preset": "p"}, others=("audio",)) as writer:
        writer.add(torch.ones(3, 5, 8), torch.arange(3.0, dtype=torch.float64))
    assert [FeatureStream(path).about for path in (plain, none)] == [
        {"format": "longreel-features/1", "preset": "p"}
    ] * 2


def test_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"older")

    def interrupted() -> None:
        with FeatureWriter(path, 5, 8, torch.float32, {}) as writer:
            writer.add(torch.zeros(2, 5, 8), torch.zeros(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_what_does_not_fit_the_file(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path / "a.safetensors", 5, 8, torch.float32, {}) as writer:
        for bad in (torch.zeros(1, 5, 9), torch.zeros(1, 5, 8).half(), torch.zeros(2, 5, 8)):
            with pytest.raises(ValueError, match="in a file of"):
                writer.add(bad, torch.zeros(1))
    with pytest.raises(MediaError, match="cannot be written"):
        FeatureWriter(tmp_path / "no" / "a.safetensors", 5, 8, torch.float32, {})


def broken(header: object, body: int = 1000) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


ABOUT = {"format": "longreel-features/1"}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"abc", "no safetensors header"),
        (bytes(3000), "no safetensors header"),
        (b"\xff" * 3000, "no safetensors header"),
        (broken(b"not json"), "no safetensors header .it is no JSON"),
        (broken([1, 2]), "no safetensors header"),
        (broken({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, 4), "not a feature file"),
        (broken({"__metadata__": {}, "features": {"dtype": "I8", "shape": [1]}, "times": {}}), "contradicts itself"),
        (
            broken({
                "__metadata__": {"format": "other/1"},
                "features": {"dtype": "F32", "shape": [1, 2, 3], "data_offsets": [0, 24]},
                "times": {"dtype": "F64", "shape": [1], "data_offsets": [24, 32]},
            }, 32),
            "its format is 'other/1'",
        ),
        (
            broken({
                "__metadata__": ABOUT,
                "features": {"dtype": "F32", "shape": [0, 2, 3], "data_offsets": [0, 0]},
                "times": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]},
            }, 0),
            "hold no frames",
        ),
        (
            broken({
                "__metadata__": ABOUT,
                "features": {"dtype": "F32", "shape": [9, 2, 3], "data_offsets": [0, 24]},
                "times": {"dtype": "F64", "shape": [1], "data_offsets": [24, 32]},
            }),
            "contradicts itself",
        ),
    ],
)  # fmt: skip
def test_files_that_are_none(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=match) as error:
        FeatureStream(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("times", [[0.0, 2.0, 1.0], [0.0, float("nan"), 1.0], [0.0, 1.0, float("inf")]])
def test_times_that_fall_or_are_none(tmp_path: Path, times: list[float]) -> None:
    path = tmp_path / "a.safetensors"
    with FeatureWriter(path, 5, 8, torch.float32, {}) as writer:
        writer.add(torch.zeros(3, 5, 8), torch.tensor(times, dtype=torch.float64))
    with (
        FeatureStream(path) as stream,
        pytest.raises(MediaError, match="its times of features fall, or are no numbers"),
    ):
        list(stream)


def test_cut_short_and_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", torch.randn(7, 5, 8))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MediaError, match="cut short"):
        FeatureStream(path)
    with pytest.raises(MediaError, match="no such file"):
        FeatureStream(tmp_path / "b.safetensors")


def test_written_to_while_it_is_read(tmp_path: Path) -> None:
    """In place: one line. Replaced by another of its name: the file that was opened is read to its end."""
    first, other = torch.zeros(40, 2, 4), torch.ones(40, 2, 4)
    path = write(tmp_path / "a.safetensors", first)
    with FeatureStream(path, chunk=1) as stream:
        next(stream)
        write(path, other)
        assert not any(bool(chunk.features.any()) for chunk in stream)
    assert torch.equal(next(FeatureStream(path, chunk=40)).features, other)
    data = path.read_bytes()
    with FeatureStream(path, chunk=1) as stream:
        next(stream)
        path.write_bytes(data[:-4] + b"\0\0\0\0")
        os.utime(path, (1, 1))
        with pytest.raises(ValueError, match=r"a\.safetensors: was written to while it was read"):
            list(stream)
