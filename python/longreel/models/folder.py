"""Features of every video of a folder, a share a process: ended and started again, it goes on behind what is there."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longreel.data import FeatureStream, FrameSpec, MediaError
from longreel.data.shards import ENDING, VIDEOS, files_of
from longreel.files.foreign import ForeignError, plain
from longreel.files.output import write_text
from longreel.files.tensors import TensorFile
from longreel.models.inputs import check_features
from longreel.models.record import RunRecord
from longreel.models.setup import Setup
from longreel.models.sizes import computed_in
from longreel.ranks import Rank

# Beside what could not be made: why.
WHY = ".error"
_SETTLED_SECONDS = 2.0
Told = Callable[[Path, RunRecord | None], None]


@dataclass
class Share:
    """What became of a process's videos: written, with their frames; there before; broken, each with one line that says why."""

    videos: list[Path]
    written: dict[Path, int] = field(default_factory=dict)
    there: list[Path] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)


class Folder:
    """Videos of a folder and what is made of them: `out/NAME.safetensors` of each, NAME with its ending and its folder.

    Process r of n takes the videos r, r + n, ... in the order of their names, so that no two take one. Where the features of a
    video are there, whole and younger than it, it is left out. A file appears whole under its name; what a process that was
    killed left of one is removed.

    Raises:
        MediaError: no such folder, or no video in it. ValueError: as `FrameSpec.parse`.
    """

    def __init__(self, setup: Setup, folder: Path, out: Path, rank: Rank, frames: str | None = None) -> None:
        self._setup, self._folder, self._out, self._rank = setup, folder, out, rank
        self._frames = frames or setup.system.frames
        FrameSpec.parse(self._frames)
        inside = out.resolve()
        self.videos = [path for path in files_of(folder, VIDEOS) if inside not in path.resolve().parents]
        if not self.videos:
            raise MediaError(f"{folder}: holds no video")
        self._models: dict[tuple[int, bool], Any] = {}

    @property
    def share(self) -> Sequence[Path]:
        """Of this process."""
        return self.videos[self._rank.index :: self._rank.count]

    def target(self, video: Path) -> Path:
        """The feature file of a video."""
        return self._out / f"{video.relative_to(self._folder)}{ENDING}"

    def extract(self, chunk: int | None = None, told: Told = lambda video, record: None) -> Share:
        """This process's share; a video that cannot be read is noted, and the next one taken.

        told: after each video, with the record of what was written, None where nothing was.

        Raises:
            OSError: a file cannot be written. MemoryError: as it is raised.
        """
        done = Share(list(self.share))
        with self._noting() as note:
            for video in self._in_order():
                target, record = self.target(video), None
                try:
                    if self._is_done(video, target):
                        done.there.append(video)
                    else:
                        note(video)
                        record = self._one(video, target, chunk)
                        done.written[video] = record.frames
                    _why(target).unlink(missing_ok=True)
                except ValueError as error:
                    done.broken[video] = " ".join(str(error).split())
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_text(_why(target), plain(done.broken[video]) + "\n")
                told(video, record)
        return done

    def settle(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until every video of every process has its features, or is known to be broken; `check` is called meanwhile."""
        left = self.videos
        while True:
            left = [
                video for video in left if not self.target(video).exists() and not _why(self.target(video)).exists()
            ]
            if not left:
                return
            check()
            time.sleep(_SETTLED_SECONDS)

    def _one(self, video: Path, target: Path, chunk: int | None) -> RunRecord:
        setup = self._setup
        target.parent.mkdir(parents=True, exist_ok=True)
        with setup.open([video], self._frames, chunk) as source:
            kind = source.facts.prefix, source.facts.still
            if kind not in self._models:
                self._models[kind] = setup.model(source)
            with setup.writer(target, source, [video], self._frames) as writer:
                return setup.extract(self._models[kind], source, writer)

    def _is_done(self, video: Path, target: Path) -> bool:
        """MediaError where another model made it, of other frames or in another dtype, or it is no feature file."""
        try:
            TensorFile(target).close()
            if target.stat().st_mtime_ns < video.stat().st_mtime_ns:
                # Of what the video was before.
                return False
        except (ForeignError, OSError):
            # Not there, or not whole.
            return False
        with FeatureStream(target) as stream:
            prefix = check_features(stream, self._setup.system.name, self._setup.preset, self._setup.weights)
            if prefix != self._setup.prefix:
                raise MediaError(f"{target}: made with{'out' * (not prefix)} a CLS token, this run is not")
            made, still = stream.about.get("frames"), stream.about.get("kind") == "images"
            if made != self._frames and not still:
                raise MediaError(f"{target}: made with --frames {made}, this run has {self._frames}")
            dtype = computed_in(self._setup.preset, self._setup.device)
            if stream.dtype != dtype:
                raise MediaError(
                    f"{target}: features are {str(stream.dtype)[6:]}, this run's are {str(dtype)[6:]}; --dtype"
                )
        return True

    def _in_order(self) -> list[Path]:
        """A video at which this process was killed comes last: it may be what killed it."""
        try:
            last = self._note.read_text()
        except (OSError, ValueError):
            return list(self.share)
        return sorted(self.share, key=lambda video: self._named(video) == last)

    def _named(self, video: Path) -> str:
        return plain(str(video.relative_to(self._folder)))

    @property
    def _note(self) -> Path:
        return self._out / f".extract-{self._rank.index}-of-{self._rank.count}"

    @contextmanager
    def _noting(self) -> Iterator[Callable[[Path], None]]:
        """Takes the video that is begun, and keeps it in a file for as long as this process stands at one."""
        self._out.mkdir(parents=True, exist_ok=True)
        yield lambda video: write_text(self._note, self._named(video))
        self._note.unlink(missing_ok=True)


def _why(target: Path) -> Path:
    return target.with_suffix(WHY)
