"""Decode a video straight through and sample it on its own clock."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from longreel.data.errors import MediaError, MediaWarning
from longreel.data.geometry import MAX_PIXELS, Fit, Geometry
from longreel.data.spec import FrameSpec

# Only local files: a playlist must not make us open a network address.
_CONTAINER_OPTIONS = {"protocol_whitelist": "file"}
# Without the last two, swscale darkens some sizes by one or two levels.
_SCALING = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
_FALLBACK_INTERVAL = Fraction(1, 25)
_LONGEST_STILL = 3600
_SHORTFALL = Fraction(1, 2)

Sample = tuple[np.ndarray, float]


class Video:
    """One open video: what its header says, and `samples()`, which may be iterated once."""

    def __init__(self, path: Path, spec: FrameSpec, size: int | None, fit: Fit) -> None:
        self.path, self.spec = path, spec
        self._container = _open(path)
        try:
            self._stream = _video_stream(path, self._container)
            width, height = self._stream.codec_context.width, self._stream.codec_context.height
            self.geometry = Geometry.of(path, width, height, size, fit)
            self._claimed = _header_duration(self._container, self._stream)
            self._interval = (
                1 / Fraction(self._stream.average_rate) if self._stream.average_rate else _FALLBACK_INTERVAL
            )
            if self._claimed is None and spec.count is not None:
                self._claimed = _scan_duration(path, self._interval)
        except BaseException:
            self._container.close()
            raise
        self._lost = 0

    @property
    def expected(self) -> int | None:
        """Frames that the sampling will give by the header's duration; None where the header does not tell."""
        duration = self._claimed or (
            Fraction(self._container.duration, av.time_base) if self._container.duration else None
        )
        return self.spec.frames(duration) if duration else None

    def close(self) -> None:
        self._container.close()

    def samples(self) -> Iterator[Sample | MediaWarning]:
        """Pictures [h, w, 3] uint8 with their time in seconds; a warning last where the file turned out damaged."""
        step, shown, taken, end = self.spec.step(self._claimed), None, 0, Fraction(0)
        with contextlib.closing(self):
            for frame, start, gone in self._frames():
                if shown is not None:
                    for sample in shown.until(step, taken, start, self.spec.count):
                        taken += 1
                        yield sample
                if taken == self.spec.count:
                    break
                shown, end = _Shown(frame, start, self.geometry), gone
            if shown is None:
                raise MediaError(f"{self.path}: no frame could be decoded")
            short = self._claimed is not None and end + _SHORTFALL < self._claimed and taken != self.spec.count
            if self._claimed is not None and self.spec.count is not None and not short:
                end = self._claimed
            for sample in shown.until(step, taken, end, self.spec.count):
                taken += 1
                yield sample
        if self._lost or short:
            stopped = (
                f", it ends at {float(end):.2f} s of {float(self._claimed):.2f} s" if short and self._claimed else ""
            )
            yield MediaWarning(f"{self.path}: damaged, frames lost: {self._lost}{stopped}; frames delivered: {taken}")

    def _frames(self) -> Iterator[tuple[av.VideoFrame, Fraction, Fraction]]:
        """Whole frames with the times when they come and go, counted from the first frame, always increasing."""
        origin, last, end = None, Fraction(-1), Fraction(0)
        for frame in self._decode():
            interval = frame.duration * frame.time_base if frame.duration and frame.time_base else self._interval
            # A raw stream has no timestamps: one frame after the other.
            stamp = frame.pts * frame.time_base if frame.pts is not None and frame.time_base else end + (origin or 0)
            if origin is None:
                origin = stamp
            # A clock that stands, runs back or leaps was broken on the way: go on one frame later.
            if not last < stamp - origin <= last + _LONGEST_STILL:
                origin = stamp - end
            last = stamp - origin
            end = last + interval
            yield frame, last, end

    def _decode(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            if packet is not None and packet.is_corrupt:
                self._lost += 1
                continue
            try:
                frames = self._stream.decode(packet)
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self._lost += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self._lost += 1
                else:
                    yield frame

    def _packets(self) -> Iterator[av.Packet | None]:
        """Packets of the video, the last without content: it flushes the decoder."""
        try:
            yield from self._container.demux(self._stream)
        except av.error.FFmpegError:
            self._lost += 1
            yield None
        except IndexError:
            # PyAV flushes every stream at the end, and trips over one that the header did not announce.
            yield None


class _Shown:
    """The frame on screen; converted at most once, and only if a sampling time falls on it."""

    def __init__(self, frame: av.VideoFrame, start: Fraction, geometry: Geometry) -> None:
        self._frame, self._start, self._geometry = frame, start, geometry
        self._picture: np.ndarray | None = None

    def until(self, step: Fraction, taken: int, end: Fraction, most: int | None) -> Iterator[Sample]:
        """One sample for each sampling time `taken * step`, `(taken + 1) * step`, ... below `end`, at most `most`."""
        while taken * step < end and taken != most:
            if self._picture is None:
                self._picture = _convert(self._frame, self._geometry)
            yield self._picture, float(self._start)
            taken += 1


def _convert(frame: av.VideoFrame, geometry: Geometry) -> np.ndarray:
    scaled = frame.reformat(geometry.width, geometry.height, "rgb24", interpolation=_SCALING).to_ndarray()
    top, left = geometry.top, geometry.left
    # [h, w, 3]
    picture = scaled[top : top + geometry.crop_height, left : left + geometry.crop_width]
    return np.rot90(picture, round(frame.rotation / 90)) if frame.rotation else picture


def _open(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path), options=_CONTAINER_OPTIONS, metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: not a video or image that can be read ({error.strerror or error})") from None
    if container.format.name == "tty":
        container.close()
        raise MediaError(f"{path}: not a video or image that can be read (a text file)")
    return container


def _video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        others = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(f"{path}: no video stream (it holds {others})")
    stream = streams[0]
    if stream.codec_context is None:
        raise MediaError(f"{path}: its video codec is not supported")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "AUTO"
    return stream


def _header_duration(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    # A container's duration covers its longest stream; it is the video's where that is the only one. Matroska counts
    # it from zero.
    if container.duration and len(container.streams) == 1:
        from_zero = "matroska" in container.format.name
        return Fraction(container.duration - (container.start_time or 0) * from_zero, av.time_base)
    return None


def _scan_duration(path: Path, interval: Fraction) -> Fraction:
    """From undecoded packets: last minus first timestamp plus one frame; without timestamps, frames times interval."""
    stamps: list[Fraction] = []
    packets = 0
    with _open(path) as container, contextlib.suppress(av.error.FFmpegError, IndexError):
        stream = _video_stream(path, container)
        for packet in container.demux(stream):
            packets += packet.size > 0
            if packet.pts is not None and packet.time_base:
                stamp = packet.pts * packet.time_base
                stamps = [min(stamps[0], stamp), max(stamps[1], stamp)] if stamps else [stamp, stamp]
    return stamps[1] - stamps[0] + interval if stamps else max(packets, 1) * interval
