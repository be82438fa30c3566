"""A video in segments that are decoded side by side, each from a key frame: the frames of straight through, or a clear stop.

Only for files whose header lists every packet with its key frames (MP4 and its kin). Segments without a sampling time are
not decoded at all, so few frames of a long video cost little on any machine.
"""

import bisect
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av

from longreel.data.clock import LONGEST_STILL, Timing
from longreel.data.container import lists_every_frame, reading, video_stream
from longreel.data.damage import Sieve
from longreel.data.errors import MediaError
from longreel.data.idle import Idle, Odd
from longreel.data.picture import Aspect, View
from longreel.data.prefetch import Prefetch
from longreel.data.shown import Sample, Shown
from longreel.data.spec import FrameSpec

# Samples that one worker may be ahead, and with them the one that it is at.
_DEPTH = 32
AHEAD = _DEPTH + 1
_MOST_WORKERS = 8
# Frames that a decoder may hold back to put them in order, and some.
_REORDERED = 20
# Below this share of the video, decoding only the segments that are needed pays even alone.
_SPARSE = Fraction(3, 4)
_SHORTFALL = Fraction(1, 2)


def default_workers() -> int:
    """1 below four cores: there FFmpeg's own threads fill the machine beside the computation.

    On two cores a second worker decodes 1.3 times as fast alone, and makes decoding with a vision tower 1.37 times as slow.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores // 2, _MOST_WORKERS) if cores >= 4 else 1


class Segment(NamedTuple):
    """Packets from the key frame stamped `begin` (decoding time) to before the one stamped `end`, None: to the file's end.

    `joined`: it begins where the segment before it ended. `first`: it begins the file.
    """

    begin: int
    end: int | None
    joined: bool
    first: bool


class _Begun(NamedTuple):
    """Before a segment's samples: the stamp of its first frame."""

    stamp: int


class _Done(NamedTuple):
    """After a segment's samples: the stamp where the next one begins, None at the file's end."""

    stamp: int | None


class SegmentReader:
    """Iterate the samples of a video, in order; then `whole` says whether these were all, or straight through must go on."""

    def __init__(self, job: "Job", segments: list[Segment], workers: int) -> None:
        self.whole, self._segments, self._span = False, segments, job.span
        self._workers = [
            Prefetch(_decode(job, segments[index::workers], alone=workers == 1), _DEPTH, "decode")
            for index in range(workers)
        ]

    @classmethod
    def of(cls, describe: "Callable[[], Job | None]", workers: int, stream: av.VideoStream) -> "SegmentReader | None":
        """None where straight through is the way: no full index, no duration, or nothing to gain."""
        keys, base = key_frames(stream), stream.time_base
        if base is None or len(keys) < 2:
            return None
        with contextlib.suppress(av.error.FFmpegError, MediaError, Odd):
            job = describe()
            if job is None:
                return None
            margin = _REORDERED * job.timing.interval * base
            samples = job.spec.frames(job.length)
            segments = plan(keys, base, job.step, samples, job.length, margin, workers, job.span)
            return None if segments is None else cls(job, segments, workers)
        return None

    def __iter__(self) -> Iterator[Sample]:
        (taken, stop), previous = self._span, None
        for worker in self._workers:
            worker.start()
        try:
            for number, segment in enumerate(self._segments):
                for item in self._workers[number % len(self._workers)]:
                    if isinstance(item, _Begun):
                        if segment.joined and item.stamp != previous:
                            return
                    elif isinstance(item, _Done):
                        previous = item.stamp
                        break
                    else:
                        index, sample = item
                        if index < self._span[0]:
                            continue
                        if index != taken:
                            return
                        taken += 1
                        yield sample
                        if taken == stop:
                            self.whole = True
                            return
                else:
                    return
            self.whole = True
        finally:
            for worker in self._workers:
                worker.close()


class Job(NamedTuple):
    """What the workers need to know of the video; `length` in seconds from the frame stamped `origin`; keys: see `Idle`; span:
    samples that are wanted."""

    path: Path
    spec: FrameSpec
    step: Fraction
    length: Fraction
    timing: Timing
    view: View
    origin: int
    keys: list[int]
    span: tuple[int, int | None] = (0, None)


def plan(
    keys: list[int],
    base: Fraction,
    step: Fraction,
    samples: int,
    duration: Fraction,
    margin: Fraction,
    workers: int,
    span: tuple[int, int | None] = (0, None),
) -> list[Segment] | None:
    """Segments that hold every sampling time of the span, the file's last one always where that has no end; None where straight
    through does as well.

    keys: decoding times of the key frames in ticks of `base`, the first frame's first. A frame is shown at most `margin`
    seconds from its decoding time, counted from the first frame's.
    """
    times = [(key - keys[0]) * base for key in keys]
    ends = [*times[1:], max(duration, times[-1])]

    def needed(begin: Fraction, end: Fraction) -> bool:
        first = max(-(-(begin - margin) // step), span[0])
        return first < min(samples, samples if span[1] is None else span[1]) and first * step < end + margin

    wanted = [needed(begin, end) for begin, end in zip(times, ends, strict=True)]
    wanted[-1] |= span[1] is None
    share = sum((e - b for b, e, w in zip(times, ends, wanted, strict=True) if w), Fraction(0)) / max(ends[-1], base)
    if workers == 1 and share > _SPARSE:
        return None
    longest = min(_DEPTH * step, duration / (2 * workers))
    segments: list[Segment] = []
    place = 0
    while place < len(keys):
        if not wanted[place]:
            place += 1
            continue
        # As many groups of pictures as fit in the longest segment, at least one.
        stop = max(bisect.bisect_right(times, times[place] + longest) - 1, place + 1)
        stop = min([stop, *(i for i in range(place + 1, stop) if not wanted[i])])
        end = keys[stop] if stop < len(keys) else None
        joined = bool(segments) and segments[-1].end == keys[place]
        segments.append(Segment(keys[place], end, joined, place == 0))
        place = stop
    return segments


def key_frames(stream: av.VideoStream) -> list[int]:
    """Decoding times of the key frames, ascending; empty unless the index lists every frame and starts with a key frame."""
    entries = stream.index_entries
    if not lists_every_frame(stream) or not entries[0].is_keyframe:
        return []
    keys = [entry.timestamp for entry in entries if entry.is_keyframe]
    return keys if all(a < b for a, b in itertools.pairwise(keys)) else []


def first_stamp(path: Path, base: Fraction, view: View) -> int:
    """The stamp of the first frame, which also gives all pictures their size."""
    with reading(path) as container:
        stream = video_stream(path, container)
        aspect = Aspect(stream)
        frame = next(container.decode(stream), None)
        if frame is None or frame.is_corrupt:
            raise Odd
        view.fix(frame, aspect(frame))
        return _stamp(frame, base)


def _stamp(frame: av.VideoFrame, base: Fraction) -> int:
    if frame.pts is None or frame.time_base != base:
        raise Odd
    return frame.pts


def _decode(job: Job, segments: list[Segment], alone: bool) -> Iterator[_Begun | _Done | tuple[int, Sample]]:
    """One worker: its segments one after the other; it ends early at the first thing that is odd."""
    with contextlib.suppress(Odd, av.error.FFmpegError, IndexError, MediaError), reading(job.path) as container:
        stream = video_stream(job.path, container)
        aspect = Aspect(stream)
        if not alone:
            stream.codec_context.thread_count = 1
        for segment in segments:
            container.seek(segment.begin, stream=stream, backward=True)
            yield from _samples(job, segment, _frames(job, segment, container, stream), aspect)


def _samples(
    job: Job, segment: Segment, frames: Iterator[tuple[av.VideoFrame, int] | _Done], aspect: Aspect
) -> Iterator[_Begun | _Done | tuple[int, Sample]]:
    """A segment's samples with their numbers, between its two ends."""
    shown: Shown | None = None
    taken, last, end = 0, Fraction(-1), Fraction(0)
    count, base = job.spec.count, job.timing.base
    for item in frames:
        if isinstance(item, _Done):
            if item.stamp is not None:
                end = (item.stamp - job.origin) * base
            elif end + _SHORTFALL < job.length and taken != count:
                raise Odd
            elif count is not None:
                end = job.length
            if shown is None:
                raise Odd
            for sample in shown.until(job.step, taken, end, count):
                yield taken, sample
                taken += 1
            yield item
            return
        frame, stamp = item
        start = (stamp - job.origin) * base
        if shown is None:
            taken = max(-(-start // job.step), 0)
            yield _Begun(stamp)
        else:
            if not last < start <= last + LONGEST_STILL:
                raise Odd
            for sample in shown.until(job.step, taken, start, count):
                yield taken, sample
                taken += 1
        shown, last = Shown(job.view.maker(frame, aspect(frame)), start), start
        end = start + (frame.duration or job.timing.interval) * base


def _frames(
    job: Job, segment: Segment, container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[tuple[av.VideoFrame, int] | _Done]:
    """Whole frames of a segment with their stamps, then its end. Anything else is odd.

    Frames before the key frame's own stamp belong to the segment before, which decodes on through them; so this one
    decodes on until a frame of the next comes out.
    """
    begin, end = None, None
    sieve, idle = Sieve(stream.codec_context), Idle(job.keys)
    idle.begin(job.origin, job.step / job.timing.base)

    def judged(frames: Iterator[tuple[av.VideoFrame, bool]]) -> Iterator[tuple[av.VideoFrame, int] | _Done]:
        for frame, whole in frames:
            stamp = _stamp(frame, job.timing.base)
            idle.check(stamp, whole)
            if begin is None or stamp < begin:
                continue
            if end is not None and stamp >= end:
                yield _Done(end)
                return
            if not whole:
                raise Odd
            yield frame, stamp

    for packet in container.demux(stream):
        if begin is None:
            # A seek may land on a key frame before the one asked for.
            if packet.dts is not None and packet.dts < segment.begin:
                continue
            if packet.dts != segment.begin or not packet.is_keyframe or packet.pts is None:
                raise Odd
            begin = job.origin if segment.first else packet.pts
        # The last packet is empty and without a stamp: it flushes the decoder. Others that are empty repeat a picture.
        if packet.is_corrupt or (packet.size == 0 and packet.dts is not None):
            raise Odd
        if segment.end is not None and packet.dts is not None and packet.dts >= segment.end and end is None:
            if packet.dts != segment.end or not packet.is_keyframe or packet.pts is None:
                raise Odd
            end = packet.pts
        if idle.skips(packet):
            continue
        sieve.give(packet)
        for item in judged(sieve.sift(stream.decode(packet))):
            yield item
            if isinstance(item, _Done):
                return
    for item in judged(sieve.rest()):
        yield item
        if isinstance(item, _Done):
            return
    if segment.end is not None:
        raise Odd
    yield _Done(None)
