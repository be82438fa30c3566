"""Video and images in: decode, sample, scale, ahead of the computation and in bounded memory; features on disk.

One way in for pictures, `frames`. Decoding runs in threads of our own: straight through the file with FFmpeg's threads below,
or segment by segment from key frames, side by side, where there are cores for it or few frames are wanted; the frames are
the same. Feature files need no PyAV: it is imported where pictures are read.
"""

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from longreel.data.errors import MediaError, MediaWarning, check_room
from longreel.data.feature_writer import FeatureWriter
from longreel.data.features import FeatureChunk, FeatureStream, is_feature_file
from longreel.data.geometry import Fit, check_size
from longreel.data.prefetch import Prefetch
from longreel.data.shards import FeatureShards
from longreel.data.spec import FrameSpec

if TYPE_CHECKING:
    from longreel.data.animation import Animation
    from longreel.data.images import Images
    from longreel.data.shown import Sample
    from longreel.data.video import Video

__all__ = [
    "FeatureChunk", "FeatureShards", "FeatureStream", "FeatureWriter", "FrameChunk", "FrameSpec", "FrameStream", "MediaError",
    "MediaWarning", "frames", "is_feature_file",
]  # fmt: skip

Source = str | os.PathLike[str]


class FrameChunk(NamedTuple):
    """Frames in order: pixels [f, h, w, 3] uint8 RGB; times [f] float64, seconds since the first frame of the video."""

    pixels: torch.Tensor
    times: torch.Tensor


class FrameStream(Iterator[FrameChunk]):
    """What `frames` returns: chunks one by one. `with`, `close()`, its end and its last reference close it."""

    def __init__(self, media: "Video | Animation | Images", chunk: int, piece: int, ahead: int, still: bool) -> None:
        self.expected = media.expected
        """Frames to come by what the header says, None where it does not say: for a progress bar, not for trust."""
        self.still = still
        """Whether these are images and not a video."""
        self._media = media
        self._chunks = Prefetch(_chunks(media, chunk, piece), ahead, "decode")

    def __next__(self) -> FrameChunk:
        item = next(self._chunks)
        while isinstance(item, MediaWarning):
            warnings.warn(item, stacklevel=2)
            item = next(self._chunks)
        return item

    def only(self, first: int, stop: int | None) -> None:
        """Give frames `first` to before `stop` alone, None: to the end; what is not needed for them is not decoded where the file
        says where its key frames are. Before anything was asked for."""
        self._media.span = first, stop

    def stop_after(self, count: int) -> None:
        """Decode no further than `count` frames of those that would be given. Before anything was asked for."""
        first, stop = self._media.span
        self._media.span = first, first + count if stop is None else min(stop, first + count)

    def close(self) -> None:
        """Stop decoding and wait for the thread; harmless when repeated."""
        self._chunks.close()
        self._media.close()

    def __enter__(self) -> "FrameStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def frames(
    source: Source | Sequence[Source],
    spec: str | FrameSpec = "fps:1",
    *,
    size: int | None = None,
    fit: Fit = "crop",
    chunk: int = 64,
    piece: int | None = None,
    ahead: int = 2,
    workers: int | None = None,
) -> FrameStream:
    """Stream the frames of a video, or of one or several images, in chunks of `chunk`, or in pieces of these.

    spec chooses frames of a video (`FrameSpec`: `fps:1`, `uniform:8`, `fps:1,max=128`, `keys`); images are all taken. size is
    the side of the square that the frames are scaled to by FFmpeg (bicubic), None keeps the size of the first frame;
    fit "crop" keeps the aspect and cuts the middle, "stretch" does not. Rotation written in the file is applied.

    `piece` frames are given at a time, and what is left of a chunk at its end; None: whole chunks. At most `ahead` of them
    wait while the next is decoded, so memory is bounded by `(ahead + 2) * piece` frames whatever the length, and 33 more for
    each of the `workers`, segments decoded at once; None takes one below four cores and one for every two cores from there
    on.

    A file that cannot be used raises MediaError, at once where the header shows it, otherwise on the way. Damage on
    the way to the end gives one MediaWarning after the last whole frame: frames that the decoder refuses or marks as
    damaged are dropped with all that are predicted from them, up to the next key frame, and the frame before them stays
    on screen. Nothing but local files is opened.
    """
    from longreel.data.animation import Animation
    from longreel.data.images import Images
    from longreel.data.keys import KeyFrames
    from longreel.data.kinds import Kind, kind
    from longreel.data.video import Video

    parsed = FrameSpec.parse(spec)
    check_size(size, fit)
    piece = chunk if piece is None else piece
    workers_named = ("workers", 1 if workers is None else workers)
    for name, value in (("chunk", chunk), ("piece", piece), ("ahead", ahead), workers_named):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    paths = [Path(item) for item in ([source] if isinstance(source, str | os.PathLike) else source)]
    if not paths:
        raise MediaError("no input file given")
    for path in paths:
        _check_file(path)
    kinds = [kind(path) for path in paths]
    moving = [path for path, one in zip(paths, kinds, strict=True) if one not in (Kind.STILL, Kind.FFMPEG_STILL)]
    if not moving:
        return FrameStream(Images(paths, kinds, size, fit), chunk, piece, ahead, still=True)
    if len(paths) > 1:
        raise MediaError(f"{moving[0]}: is not an image; give one video, or one or several images")
    if kinds[0] is Kind.ANIMATION and parsed.keys:
        raise MediaError(f"{paths[0]}: {parsed} takes key frames of a video, and pictures that move have none")
    media: Video | Animation
    if kinds[0] is Kind.ANIMATION:
        media = Animation(paths[0], parsed, size, fit)
    else:
        media = (KeyFrames if parsed.keys else Video)(paths[0], parsed, size, fit, workers)
    return FrameStream(media, chunk, piece, ahead, still=False)


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(f"{path}: is a directory; give one video, or one or several images")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{path}: is not a regular file")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{str(path)!r}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    if status.st_size == 0:
        raise MediaError(f"{path}: the file is empty")


def _chunks(media: "Video | Animation | Images", chunk: int, piece: int) -> Iterator[FrameChunk | MediaWarning]:
    from av.error import FFmpegError

    pixels, times, given = torch.empty(0), list[float](), 0
    samples = _within(media)
    try:
        for sample in samples:
            if isinstance(sample, MediaWarning):
                if times:
                    yield _cut(pixels, times)
                    times = []
                yield sample
                continue
            picture, time = sample
            if not times:
                pixels = torch.empty(min(piece, chunk - given), *picture.shape, dtype=torch.uint8)
            pixels[len(times)].numpy()[...] = picture
            times.append(time)
            if len(times) == len(pixels):
                yield _cut(pixels, times)
                given, times = (given + len(times)) % chunk, []
        if times:
            yield _cut(pixels, times)
    except FFmpegError as error:
        check_room(error)
        raise MediaError(f"decoding failed: {error.strerror or error}") from None


def _within(media: "Video | Animation | Images") -> Iterator["Sample | MediaWarning"]:
    """The samples of the span, and warnings."""
    (first, stop), index = media.span, media.begins
    if first == stop:
        return
    for sample in media.samples():
        if isinstance(sample, MediaWarning):
            yield sample
            continue
        if index >= first:
            yield sample
        index += 1
        if index == stop:
            return


def _cut(pixels: torch.Tensor, times: list[float]) -> FrameChunk:
    return FrameChunk(pixels[: len(times)], torch.tensor(times, dtype=torch.float64))
