"""Feature files as a dataset."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from longreel.data import FeatureShards, FeatureWriter, MediaError
from longreel.data.shards import spread

pytestmark = pytest.mark.fast


def write(path: Path, frames: int, value: float, audio: int = 0) -> None:
    path.parent.mkdir(exist_ok=True)
    with FeatureWriter(path, 3, 4, torch.bfloat16, {}, others=("audio",)) as writer:
        sound = {"audio": (torch.full((audio, 2), value), torch.arange(audio).double())} if audio else {}
        features = torch.arange(frames)[:, None, None].expand(frames, 3, 4).to(torch.bfloat16) + value
        writer.add(features, torch.arange(frames).double(), sound)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(5):
        write(tmp_path / ("below" * (index > 2)) / f"{index}.mp4.safetensors", 4 + index, 8.0 * index, audio=index % 2)
    (tmp_path / ".2.mp4.safetensors-01234567.part").touch()
    (tmp_path / "4.mp4.error").touch()
    return tmp_path


def test_items(folder: Path) -> None:
    shards = FeatureShards(folder)
    assert [item["name"] for item in shards] == ["0.mp4", "1.mp4", "2.mp4", "below/3.mp4", "below/4.mp4"]
    item = shards[3]
    assert item["features"].shape == (7, 3, 4)
    assert item["features"].dtype == torch.bfloat16
    assert item["features"][:, 0, 0].tolist() == [24.0 + frame for frame in range(7)]
    assert item["times"].tolist() == list(range(7))
    assert item["audio"].tolist() == [[24.0, 24.0]]
    assert item["audio.times"].tolist() == [0.0]
    assert "audio" not in shards[0]


def test_some_frames_stack_in_batches_of_workers(folder: Path) -> None:
    shards = FeatureShards(folder, frames=2)
    sampler = DistributedSampler(shards, num_replicas=2, rank=1, shuffle=False)  # type: ignore[var-annotated]
    loader = DataLoader(shards, batch_size=3, sampler=sampler, num_workers=1)
    (batch,) = list(loader)
    assert batch["name"] == ["1.mp4", "below/3.mp4", "0.mp4"]
    assert batch["features"].shape == (3, 2, 3, 4)
    assert batch["features"][:, :, 0, 0].tolist() == [[9.0, 11.0], [25.0, 29.0], [1.0, 3.0]]
    assert batch["times"].tolist() == [[1.0, 3.0], [1.0, 5.0], [1.0, 3.0]]


@pytest.mark.parametrize(
    ("there", "wanted", "frames"),
    [(8, 4, [1, 3, 5, 7]), (7, 2, [1, 5]), (1, 3, [0, 0, 0]), (2, 4, [0, 0, 1, 1]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_spread(there: int, wanted: int, frames: list[int]) -> None:
    assert spread(there, wanted) == frames


def test_what_is_no_dataset(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(MediaError, match="holds no feature files"):
        FeatureShards(folder / "empty")
    with pytest.raises(MediaError, match="no such folder"):
        FeatureShards(folder / "nothing")
    with pytest.raises(ValueError, match="frames=0"):
        FeatureShards(folder, frames=0)
    path = folder / "0.mp4.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for frames in (None, 2):
        with pytest.raises(MediaError, match="cut short"):
            FeatureShards([path], frames=frames)[0]
