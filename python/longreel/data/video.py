"""Decode a video and sample it on its own clock: straight through, or in segments where that is quicker."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from longreel.data.container import header_duration, open_container, scan_duration, video_stream
from longreel.data.errors import MediaError, MediaWarning
from longreel.data.geometry import Fit, Geometry
from longreel.data.segments import SegmentReader, default_workers
from longreel.data.shown import LONGEST_STILL, Sample, Shown
from longreel.data.spec import FrameSpec

_FALLBACK_INTERVAL = Fraction(1, 25)
_SHORTFALL = Fraction(1, 2)


class Video:
    """One open video: what its header says, and `samples()`, which may be iterated once."""

    def __init__(self, path: Path, spec: FrameSpec, size: int | None, fit: Fit, workers: int | None = None) -> None:
        self.path, self.spec, self._workers = path, spec, workers or default_workers()
        self._container = open_container(path)
        try:
            self._stream = video_stream(path, self._container)
            width, height = self._stream.codec_context.width, self._stream.codec_context.height
            self.geometry = Geometry.of(path, width, height, size, fit)
            self._claimed = header_duration(self._container, self._stream)
            self._interval = (
                1 / Fraction(self._stream.average_rate) if self._stream.average_rate else _FALLBACK_INTERVAL
            )
            if self._claimed is None and spec.count is not None:
                self._claimed = scan_duration(path, self._interval)
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
        """Pictures [h, w, 3] uint8 with their time in seconds; a warning last where the file turned out damaged.

        Segments give up where a file is not as its index says; straight through then goes on behind what they gave.
        """
        given = 0
        with contextlib.closing(self):
            reader = SegmentReader.of(
                self.path,
                self.spec,
                self._claimed,
                self._interval,
                self.geometry,
                self._workers,
                self._container,
                self._stream,
            )
            if reader is not None:
                for picture in reader:
                    given += 1
                    yield picture
                if reader.whole:
                    return
            for index, sample in enumerate(self._straight()):
                if index >= given or isinstance(sample, MediaWarning):
                    yield sample

    def _straight(self) -> Iterator[Sample | MediaWarning]:
        step, shown, taken, end = self.spec.step(self._claimed), None, 0, Fraction(0)
        for frame, start, gone in self._frames():
            if shown is not None:
                for sample in shown.until(step, taken, start, self.spec.count):
                    taken += 1
                    yield sample
            if taken == self.spec.count:
                break
            shown, end = Shown(frame, start, self.geometry), gone
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
            if not last < stamp - origin <= last + LONGEST_STILL:
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
