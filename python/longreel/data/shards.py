"""A folder of feature files as a dataset, and the videos that a process of several makes them of."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from longreel.data.errors import MediaError
from longreel.data.features import FeatureStream

ENDING = ".safetensors"
# More than a file holds: all of it is one chunk.
MOST_FRAMES = 1 << 40
# Of containers that hold video. Which files of a folder are meant, only their names say: a broken one shows nothing else.
VIDEOS = frozenset([
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".m4v", ".mj2", ".mkv", ".mov", ".mp4",
    ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
])  # fmt: skip


class FeatureShards(Dataset[dict[str, Any]]):
    """Feature files, as `longreel extract DIR --out SHARDS` writes them, as a map-style dataset: one item a file, sorted by name.

    A file is opened when its item is asked for, and closed again: nothing is held open, so that workers of a `DataLoader`, forked
    or spawned, and a `DistributedSampler` take it as it is. An item is a dict::

        name: of the file within its folder, without ".safetensors".
        features: [F, T, C] in the file's dtype, T patches of each of F frames (a CLS token before them, where the file has it).
        times: [F] float64, seconds since the first frame.
        NAME, NAME.times: of other modalities, as `audio` [A, ...] and [A]; without `frames` only.

    Args:
        source: a folder, with all folders in it, or the files themselves.
        frames: so many of each file, spread evenly, the middle of each of as many equal parts; one is taken again where the file
            has fewer. Nothing else is read. Items of one size stack in a batch. None: all.

    Raises:
        MediaError: no such folder, no feature files in it; and from an item, a file that is none, or was cut.
        ValueError: `frames` below 1.
    """

    def __init__(
        self, source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, frames: int | None = None
    ) -> None:
        if frames is not None and frames < 1:
            raise ValueError(f"frames={frames}: must be at least 1, or None for all")
        self.frames = frames
        if isinstance(source, str | os.PathLike):
            folder = Path(source)
            self.files = files_of(folder, {ENDING})
            self._names = [path.relative_to(folder).as_posix() for path in self.files]
        else:
            self.files = [Path(path) for path in source]
            self._names = [path.name for path in self.files]
        if not self.files:
            raise MediaError(f"{source}: holds no feature files")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, name = self.files[index], self._names[index].removesuffix(ENDING)
        if self.frames is not None:
            with FeatureStream(path) as stream:
                features, times = stream.take(spread(stream.expected, self.frames))
            return {"name": name, "features": features, "times": times}
        with FeatureStream(path, chunk=MOST_FRAMES) as stream:
            whole = next(stream)
        item = {"name": name, "features": whole.features, "times": whole.times}
        for other, (values, at) in whole.others.items():
            item |= {other: values, f"{other}.times": at}
        return item


def spread(there: int, wanted: int) -> list[int]:
    """The middles of `wanted` equal parts of `there` frames, ascending."""
    return [(2 * part + 1) * there // (2 * wanted) for part in range(wanted)]


def files_of(folder: Path, endings: set[str] | frozenset[str]) -> list[Path]:
    """Files with such endings in a folder and those below it, sorted by name; hidden ones are left out.

    Raises:
        MediaError: it is no folder, or cannot be read.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder}: no such folder")
    found = list[Path]()

    def failed(error: OSError) -> None:
        raise MediaError(f"{error.filename}: cannot be read ({error.strerror})")

    for place, below, names in os.walk(folder, onerror=failed):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [
            Path(place, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in endings
        ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
