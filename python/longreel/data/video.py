"""Decode a video and sample it on its own clock: straight through, or in segments where that is quicker."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from longreel.data.clock import FrameClock, PacketClock
from longreel.data.container import (
    Span,
    end_by_index,
    ends_early,
    header_end,
    open_container,
    packets,
    timing,
    video_stream,
)
from longreel.data.damage import Sieve
from longreel.data.errors import MediaError, MediaWarning, check_room
from longreel.data.geometry import Fit, check_pixels
from longreel.data.idle import Idle, Odd
from longreel.data.picture import Aspect, View
from longreel.data.segments import Job, SegmentReader, default_workers, first_stamp, key_frames
from longreel.data.shown import Sample, Shown, Spanned
from longreel.data.spec import FrameSpec
from longreel.measure.cpu import note_threads

_SHORTFALL = Fraction(1, 2)
# Bytes that are counted in a moment, where only the progress bar asks.
_QUICKLY_COUNTED = 64 << 20

Picture = Callable[[], np.ndarray]


class Video(Spanned):
    """One open video: what its header says, and `samples()`, which may be iterated once."""

    def __init__(self, path: Path, spec: FrameSpec, size: int | None, fit: Fit, workers: int | None = None) -> None:
        self.path, self.spec, self._workers = path, spec, workers or default_workers()
        self._again = partial(Video, path, spec, size, fit, workers)
        self._container = open_container(path)
        try:
            self._stream = video_stream(path, self._container)
            check_pixels(path, self._stream.codec_context.width, self._stream.codec_context.height)
            self._aspect, self._view = Aspect(self._stream), View(path, size, fit)
            self._timing = timing(self._container, self._stream)
            self._header_end = header_end(self._container, self._stream)
            self._index_end = end_by_index(path, self._container, self._stream)
            counts = self._index_end is None and (spec.count is not None or path.stat().st_size <= _QUICKLY_COUNTED)
            self._span = Span(path) if counts else None
        except BaseException:
            self._container.close()
            raise
        self._lost = 0

    @property
    def expected(self) -> int | None:
        """Frames that the sampling will give, by the packets where they were counted, else by the header."""
        if self._span is not None:
            duration: Fraction | None = self._span.length(None)
        elif self._index_end is not None or self._header_end is not None:
            duration = (self._index_end or self._header_end or 0) - (self._stream.start_time or 0) * self._timing.base
        else:
            duration = Fraction(self._container.duration, av.time_base) if self._container.duration else None
        return self.spec.frames(duration) if duration and duration > 0 else None

    @property
    def begins(self) -> int:
        """What comes before the span is never made."""
        return self.span[0]

    def close(self) -> None:
        note_threads()
        self._container.close()

    def samples(self) -> Iterator[Sample | MediaWarning]:
        """Pictures [h, w, 3] uint8 with their time in seconds; a warning last where the file turned out damaged.

        Segments give up where a file is not as its index says; straight through then goes on behind what they gave.
        """
        given = self.begins
        with contextlib.closing(self):
            reader = self._segments()
            if reader is not None:
                for picture in reader:
                    given += 1
                    yield picture
                if reader.whole:
                    yield from self._remarks()
                    return
            ordered = self._groups()
            for way in (partial(self._straight, ordered), self._whole) if ordered else (self._straight,):
                with contextlib.suppress(Odd):
                    for index, sample in enumerate(way()):
                        if index >= given or isinstance(sample, MediaWarning):
                            given = max(given, index + 1)
                            yield sample
                    return

    def _groups(self) -> list[int]:
        """Decoding times of the key frames, where whatever a group's end is not needed for may be left out; else none."""
        plain = (
            not self._timing.decode_times and not self._timing.breaks and not self._stream.codec_context.has_b_frames
        )
        return key_frames(self._stream) if plain else []

    def _whole(self) -> Iterator[Sample | MediaWarning]:
        """From the start, with every frame."""
        with contextlib.closing(self._again()) as again:
            yield from again._straight()

    def _segments(self) -> SegmentReader | None:
        """None where straight through is the way: no full index, decoding times only, or nothing to gain."""
        if self._timing.decode_times and self._stream.codec_context.has_b_frames:
            return None
        return SegmentReader.of(self._job, self._workers, self._stream)

    def _job(self) -> Job | None:
        origin = first_stamp(self.path, self._timing.base, self._view)
        length = self._length(origin)
        if length is None:
            return None
        return Job(
            self.path,
            self.spec,
            self.spec.step(length),
            length,
            self._timing,
            self._view,
            origin,
            self._groups(),
            self.span,
        )

    def _length(self, origin: int | None) -> Fraction | None:
        """Seconds of video from the frame stamped `origin`, None where nothing tells."""
        end = self._header_end if self._index_end is None else self._index_end
        if self._span is not None:
            length = self._span.length(origin)
        elif end is not None:
            length = end - (origin or 0) * self._timing.base
        else:
            return None
        return max(length, self._timing.interval * self._timing.base)

    def _straight(self, groups: Sequence[int] = ()) -> Iterator[Sample | MediaWarning]:
        """groups: as `Idle` takes them; none: every frame is decoded."""
        packed, idle = PacketClock(self._packets(), self._timing), Idle(groups)
        clock = FrameClock(self._decode(packed, idle), packed, self._timing)
        step, shown, taken, length = Fraction(1), None, 0, None
        for picture, start in self._pictures(clock):
            if shown is None:
                length = self._length(clock.origin)
                step = self.spec.step(length)
                if groups and clock.origin is not None:
                    idle.begin(clock.origin, step / self._timing.base)
            else:
                for sample in shown.until(step, taken, start, self.spec.count):
                    taken += 1
                    yield sample
            if taken == self.spec.count:
                break
            shown = Shown(picture, start)
        if shown is None:
            raise MediaError(f"{self.path}: no frame could be decoded")
        end = clock.end
        if taken == self.spec.count and length is not None:
            # Decoding stopped before the end.
            end = length
        ended = end
        if length is not None and self.spec.count is not None and end + _SHORTFALL >= length:
            end = max(end, length)
        for sample in shown.until(step, taken, end, self.spec.count):
            taken += 1
            yield sample
        yield from self._warnings(clock.origin, packed, ended, end, taken)

    def _warnings(
        self, origin: int | None, packed: PacketClock, ended: Fraction, end: Fraction, taken: int
    ) -> Iterator[MediaWarning]:
        """Of a file read straight through: `ended` is where its frames end, `end` where what was taken does."""
        claimed = self._claimed(origin, packed)
        short = self._falls_short(ended, claimed)
        if self._lost or short:
            stopped = f", it ends at {float(end):.2f} s of {float(claimed):.2f} s" if short and claimed else ""
            yield MediaWarning(f"{self.path}: damaged, frames lost: {self._lost}{stopped}; frames delivered: {taken}")
        elif packed.leaps:
            at, leap = packed.leaps[0]
            yield MediaWarning(
                f"{self.path}: its clock leaps by {float(leap):.2f} s at {float(at):.2f} s (leaps: {len(packed.leaps)}); "
                "the pictures after it follow at once"
            )
        yield from self._remarks()

    def _remarks(self) -> Iterator[MediaWarning]:
        if ends_early(self.path, self._container):
            yield MediaWarning(f"{self.path}: another recording is joined on behind its end, and not read whole")
        if self._stream.metadata.get("alpha_mode") == "1":
            # VP8 and VP9 keep it beside the pictures, where FFmpeg's own decoders do not look.
            yield MediaWarning(f"{self.path}: its transparency is not read, and the colours behind it are shown")
        if self._view.askew:
            yield MediaWarning(
                f"{self.path}: is to be turned by an angle that is no multiple of 90 degrees; the nearest is used"
            )

    def _falls_short(self, ended: Fraction, claimed: Fraction | None) -> bool:
        return claimed is not None and ended + _SHORTFALL < claimed

    def _claimed(self, origin: int | None, packed: PacketClock) -> Fraction | None:
        """Seconds that the header promises from the first frame shown, stamped `origin`."""
        counted = None if self._span is None else self._span.length(origin)
        if self._header_end is None or (self._timing.breaks and packed.restarted):
            return counted
        said = self._header_end - (origin or 0) * self._timing.base
        return said if counted is None else max(said, counted)

    def _pictures(self, clock: FrameClock) -> Iterator[tuple[Picture, Fraction]]:
        for frame, start in clock:
            yield self._view.maker(frame, self._aspect(frame)), start

    def _decode(self, packed: PacketClock, idle: Idle | None = None) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Frames, and whether they are whole. A recording cut between key frames is so from its first one on: nothing before
        that is lost."""
        sieve, idle = Sieve(self._stream.codec_context), idle or Idle(())
        begun, first_key = False, None
        for packet in packed:
            if packet.is_keyframe and not begun:
                begun, first_key = True, packet.pts
            if idle.skips(packet):
                if packed.restarted or not packed.rising:
                    raise Odd
                packed.forget()
                continue
            sieve.give(packet)
            if packet.is_corrupt and not packed.joins():
                self._lost += begun
                packed.forget()
                sieve.lose()
                continue
            try:
                frames = self._stream.decode(packet)
            except av.error.FFmpegError as error:
                check_room(error)
                self._lost += begun
                packed.forget()
                sieve.refuse()
                continue
            yield from self._counted(sieve.sift(frames), first_key, idle)
        with contextlib.suppress(av.error.FFmpegError):
            yield from self._counted(sieve.sift(self._stream.decode(None)), first_key, idle)
        yield from self._counted(sieve.rest(), first_key, idle)

    def _counted(
        self, frames: Iterator[tuple[av.VideoFrame, bool]], first_key: int | None, idle: Idle
    ) -> Iterator[tuple[av.VideoFrame, bool]]:
        for frame, whole in frames:
            idle.check(frame.pts, whole)
            if not whole and first_key is not None and (frame.pts is None or frame.pts >= first_key):
                self._lost += 1
            yield frame, whole

    def _packets(self) -> Iterator[av.Packet]:
        try:
            yield from packets(self._container, self._stream)
        except av.error.FFmpegError:
            self._lost += 1
