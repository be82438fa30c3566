"""The key frames of a video: each is whole by itself, so that nothing between them is decoded where the file says so."""

import contextlib
import itertools
from collections.abc import Iterator
from fractions import Fraction

import av

from longreel.data.clock import LONGEST_STILL, FrameClock, PacketClock
from longreel.data.container import packets, reading, video_stream
from longreel.data.errors import MediaError, MediaWarning
from longreel.data.idle import Odd
from longreel.data.picture import Aspect
from longreel.data.segments import first_stamp, key_frames
from longreel.data.shown import Sample
from longreel.data.spec import FrameSpec
from longreel.data.video import Video

# Packets among which reordered ones are found.
_LOOKED_AT = 300


class KeyFrames(Video):
    """As `Video`, for `keys` and `keys:N`: every key frame that can be shown, or those 1 / N seconds after the one before.

    By the file's index, else by what its packets say of themselves. Where that and what the decoder gives do not agree, or
    something is damaged, everything is decoded.
    """

    @property
    def expected(self) -> int | None:
        """As the index has them, None without one."""
        keys, base = key_frames(self._stream), self._timing.base
        chosen = _Chosen(self.spec)
        return sum(chosen(key * base) for key in keys) or None

    @property
    def begins(self) -> int:
        return 0

    def samples(self) -> Iterator[Sample | MediaWarning]:
        """Pictures [h, w, 3] uint8 with their time in seconds; warnings last, as `Video` has them."""
        given = 0
        with contextlib.closing(self):
            for way in (self._by_index, self._by_packets):
                with contextlib.suppress(Odd, av.error.FFmpegError, IndexError):
                    for index, sample in enumerate(way()):
                        if index >= given:
                            given += 1
                            yield sample
                    yield from self._remarks()
                    return
            for index, item in enumerate(self._by_decoding()):
                if index >= given or isinstance(item, MediaWarning):
                    yield item

    def _by_index(self) -> Iterator[Sample]:
        """From key frame to key frame; what lies between is not even read."""
        base, keys, chosen = self._timing.base, key_frames(self._stream), _Chosen(self.spec)
        if not keys or self._timing.decode_times or not self._timed():
            raise Odd
        origin, last = first_stamp(self.path, base, self._view), Fraction(-1)
        with reading(self.path) as container:
            stream = video_stream(self.path, container)
            # One frame at a time is asked for.
            stream.codec_context.thread_count = 1
            aspect = Aspect(stream)
            lead = 0
            for key in keys:
                # FFmpeg seeks by times shown in some versions: how long a frame waits to be shown, the first one says.
                container.seek(key + lead, stream=stream, backward=True)
                packet = next(each for each in container.demux(stream) if each.dts is None or each.dts >= key)
                lead = max(lead, (packet.pts or 0) - key) if key == keys[0] else lead
                stamp = packet.pts
                if packet.dts != key or stamp is None or packet.is_corrupt or not packet.is_keyframe:
                    raise Odd
                start = (stamp - origin) * base
                if not last < start <= last + LONGEST_STILL:
                    raise Odd
                last = start
                # What an edit list leaves out is not shown.
                if packet.is_discard or not chosen(start):
                    continue
                frame = _only([*stream.decode(packet), *stream.decode(None)])
                if frame.pts != stamp:
                    raise Odd
                yield self._view.maker(frame, aspect(frame))(), float(start)

    def _by_packets(self) -> Iterator[Sample]:
        """Every packet is read, and the decoder given those of key frames alone."""
        if not self._timed():
            raise Odd
        origin = self._origin()
        with reading(self.path) as container:
            stream = video_stream(self.path, container)
            stream.codec_context.thread_count = 1
            aspect, base, chosen = Aspect(stream), self._timing.base, _Chosen(self.spec)
            packed, begun = PacketClock(packets(container, stream), self._timing), False
            for packet in packed:
                stamp = packet.pts
                if stamp is None or packed.decode_times_alone or packet.is_corrupt or not (begun or packet.is_keyframe):
                    raise Odd
                begun = True
                if not packet.is_keyframe or packet.is_discard:
                    continue
                start = (stamp - origin) * base
                if not chosen(start):
                    continue
                frame = _only([*stream.decode(packet), *stream.decode(None)])
                stream.codec_context.flush_buffers()
                if frame.pts != stamp:
                    raise Odd
                yield self._view.maker(frame, aspect(frame))(), float(start)
            claimed = self._claimed(origin, packed)
            if packed.leaps or self._falls_short((packed.end - origin) * base, claimed):
                raise Odd

    def _timed(self) -> bool:
        """Whether packets say when they are shown: of reordered ones, times that only rise are decoding times."""
        if not self._timing.reorders:
            return True
        latest: int | None = None
        with reading(self.path) as container:
            for packet in itertools.islice(container.demux(video_stream(self.path, container)), _LOOKED_AT):
                if latest is not None and packet.pts is not None and packet.pts < latest:
                    return not self._timing.decode_times
                latest = latest if packet.pts is None else packet.pts
        return False

    def _origin(self) -> int:
        """The stamp of the first frame that can be shown, which also gives all pictures their size."""
        whole = Video(self.path, FrameSpec(rate=Fraction(1)), None, "crop", 1)
        with contextlib.closing(whole):
            packed = PacketClock(whole._packets(), self._timing)
            clock = FrameClock(whole._decode(packed), packed, self._timing)
            for frame, _ in itertools.islice(clock, 1):
                self._view.fix(frame, whole._aspect(frame))
        if clock.origin is None:
            raise Odd
        return clock.origin

    def _by_decoding(self) -> Iterator[Sample | MediaWarning]:
        """Everything is decoded, and key frames are taken."""
        packed = PacketClock(self._packets(), self._timing)
        clock, chosen, taken, found = (
            FrameClock(self._decode(packed), packed, self._timing),
            _Chosen(self.spec),
            0,
            False,
        )
        for frame, start in clock:
            found = True
            make = self._view.maker(frame, self._aspect(frame))
            if frame.key_frame and chosen(start):
                taken += 1
                yield make(), float(start)
        if not taken:
            raise MediaError(f"{self.path}: no {'key ' * found}frame could be decoded")
        yield from self._warnings(clock.origin, packed, clock.end, clock.end, taken)


class _Chosen:
    """Whether a key frame is taken, asked of one after the other by their times."""

    def __init__(self, spec: FrameSpec) -> None:
        self._apart = None if spec.rate is None else 1 / spec.rate
        self._last: Fraction | None = None

    def __call__(self, start: Fraction) -> bool:
        if self._apart is not None and self._last is not None and start < self._last + self._apart:
            return False
        self._last = start
        return True


def _only(frames: list[av.VideoFrame]) -> av.VideoFrame:
    """The one frame that a key frame's packet gives."""
    # Of two fields the second may stand in a packet of its own.
    if len(frames) != 1 or not frames[0].key_frame or frames[0].is_corrupt or frames[0].interlaced_frame:
        raise Odd
    return frames[0]
