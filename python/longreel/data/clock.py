"""What a file says about time, and what its frames make of it: one model for every container.

The clock is set on the packets, in the order of the file, before anything is decoded; the decoder only puts frames in order.

- A packet's presentation time is believed. Decoding times, which must rise from packet to packet, tell where it cannot be:
  a packet whose clock stands, slips back or leaps while its neighbours go on has no time of its own.
- Where the packets after a leap go on from there, another recording begins: it follows without a gap. A step back of more
  than half a second is such a leap; so is one ahead of more than ten seconds where the container's clock may break
  (transport and program streams), of more than an hour elsewhere, since a gap in a file's timetable is a picture that stays.
- A container that knows decoding times alone (AVI), or writes them as presentation times, gives the k-th frame shown the
  k-th time.
- A frame without a time of its own comes between its neighbours, at most one usual interval after the one before. A frame
  that comes after a later one was shown (damage) is not shown.

Time zero is the first frame that can be shown. The length runs from there to the end of the last packet: what is there
counts, whatever a header says.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import av

# Seconds: how far a clock may slip back, and the gaps that are believed.
_SLIP = Fraction(1, 2)
GAP_OF_A_BREAKING_CLOCK = 10
LONGEST_STILL = 3600
# How long before it is shown a packet may be decoded.
_REACH = 10
# Packets that decide whether a clock goes on from a leap.
_AHEAD = 8
# Frames that wait for the time of one after them.
_HELD = 16
# Packets that a decoder may hold back, and frames missing among them that mean a loss.
_IN_DECODER = 64
_LOST = 4


class Timing(NamedTuple):
    """A stream's tick in seconds, its usual interval in ticks, and how its packets are stamped.

    breaks: the container's clock may leap; decode_times: it has no others; reorders: packets are not in the order shown.
    """

    base: Fraction
    interval: int
    breaks: bool
    decode_times: bool
    reorders: bool


class PacketClock:
    """Iterate packets with their presentation times mended, in ticks.

    Empty packets repeat the picture before them: they count for the end, and are not given on.
    """

    def __init__(self, packets: Iterable["av.Packet"], timing: Timing) -> None:
        self._packets, self._timing = iter(packets), timing
        usual = max(Fraction(1), 5 * timing.interval * timing.base)
        leap = Fraction(GAP_OF_A_BREAKING_CLOCK if timing.breaks else LONGEST_STILL)
        self._slip, self._usual, self._leap = (int(seconds / timing.base) for seconds in (_SLIP, usual, leap))
        self._waiting: deque[av.Packet] = deque()
        self._offset = 0
        self._high: int | None = None
        self._last_dts: int | None = None
        self._recent: deque[int] = deque(maxlen=_AHEAD)
        self._end = self._loose = 0
        self._last_time: int | None = None
        self.first: int | None = None
        """Presentation time of the first packet that has one."""
        self.lead = 0
        """How long the packets last that came before it."""
        self.still_end: int | None = None
        """Where the last empty packet ends."""
        self.leaps: list[tuple[Fraction, Fraction]] = []
        """Leaps ahead that were cut out: seconds since the first packet, seconds."""
        self.restarted = False
        self.rising, self.decode_times_alone = True, False
        """Whether packets were stamped in the order of the file so far; whether they have decoding times only."""
        self.times: deque[int | None] = deque()
        """While `rising`: the stamps of packets given on, for frames to take in this order."""

    def __iter__(self) -> Iterator["av.Packet"]:
        while (packet := self._next()) is not None:
            if self._timing.decode_times:
                packet.pts = packet.dts
            if packet.size == 0 and _stamp(packet) is None:
                continue
            timed = packet.pts is not None
            time = self._time(packet)
            if not packet.is_discard:
                self._count(time, min(packet.duration or self._timing.interval, int(LONGEST_STILL / self._timing.base)))
            if packet.size == 0:
                self.still_end = self.still_end if time is None else self.end
                continue
            self._note_order(packet, time, timed)
            packet.pts = time if packet.pts is not None else None
            packet.dts = None if packet.dts is None else packet.dts + self._offset
            yield packet

    @property
    def end(self) -> int:
        """Where the last packet that came ends."""
        return self._end + self._loose

    def _count(self, time: int | None, length: int) -> None:
        if time is None:
            self._loose += length if self.first is not None else 0
            self.lead += length if self.first is None else 0
            return
        if self.first is None:
            self.first, self._end = time, time
        self._end, self._loose = max(self._end, time + length), 0

    def joins(self) -> bool:
        """Whether another recording begins within the next packets: a gap in the file's counters is no damage there."""
        high = self._high
        if high is None:
            return False
        self._stamps_ahead()
        for other in self._waiting:
            stamp = _stamp(other)
            if stamp is not None and not high - (0 if other.is_keyframe else self._slip) <= stamp <= high + self._leap:
                return True
        return False

    def forget(self) -> None:
        """The last packet gave no frame."""
        if self.times:
            self.times.pop()

    def _next(self) -> "av.Packet | None":
        return self._waiting.popleft() if self._waiting else next(self._packets, None)

    def _stamps_ahead(self) -> list[int]:
        while len(self._waiting) < _AHEAD and (packet := next(self._packets, None)) is not None:
            self._waiting.append(packet)
        return [stamp for packet in self._waiting if (stamp := _stamp(packet)) is not None]

    def _note_order(self, packet: "av.Packet", time: int | None, timed: bool) -> None:
        if not self.rising or (packet.dts is None and time is None and self._last_time is None):
            return
        self.decode_times_alone |= not timed
        if time is not None and self._last_time is not None and time <= self._last_time:
            if timed:
                self.rising = False
                self.times.clear()
                return
            time = None
        self._last_time = self._last_time if time is None else time
        self.times.append(time)
        if len(self.times) > _IN_DECODER:
            self.times.popleft()

    def _time(self, packet: "av.Packet") -> int | None:
        """The packet's presentation time on the mended clock; None where the file does not say."""
        stamp = _stamp(packet)
        if stamp is None:
            return None
        shown = stamp if packet.pts is None else packet.pts
        high, reach = self._high, max(self._usual, 32 * self._timing.interval, int(_REACH / self._timing.base))
        # Where packets are reordered, those before the first decoding time have presentation times alone, which run ahead.
        untold = high is not None and self._last_dts is None and self._timing.reorders
        first = untold and packet.dts is not None and stamp <= (high or 0) <= stamp + self._leap
        if high is None or first or high < stamp <= high + self._usual:
            pass
        elif high - self._slip <= stamp <= high:
            # A decoding time that does not rise is none.
            # FFmpeg guesses decoding times where a container has none: a guess that is the presentation time says nothing.
            guessed = self._timing.reorders and packet.dts == packet.pts
            if packet.dts is not None and self._last_dts is not None and packet.dts <= self._last_dts and not guessed:
                packet.pts = None
                return None
        elif high - self._slip <= shown <= high + self._usual:
            # The decoding time alone is broken.
            return shown + self._offset
        else:
            verdict = self._judge(stamp, high)
            if verdict == "broken":
                if packet.dts is None and (stamp < high or (untold and self._waits(high, shown, reach))):
                    return shown + self._offset
                packet.pts = None
                return None
            if verdict == "new":
                self.restarted = True
                if stamp > high:
                    at = self.end - (self.first or 0)
                    self.leaps.append((at * self._timing.base, (stamp - high) * self._timing.base))
                self._offset = self.end - shown
                self._high = self._last_dts = None
                self._recent.clear()
        self._high = stamp if self._high is None else max(self._high, stamp)
        self._last_dts = self._last_dts if packet.dts is None else packet.dts
        self._recent.append(stamp)
        if packet.dts is None or stamp - self._slip <= shown <= stamp + reach or self._waits(stamp, shown, reach):
            return shown + self._offset
        packet.pts = None
        return None

    def _waits(self, stamp: int, shown: int, reach: int) -> bool:
        """Whether it is decoded long before it is shown, as the one before it stays: decoding times come near, or the end."""
        ahead = [shown - reach <= other <= shown for other in self._stamps_ahead()]
        return not self._timing.breaks and stamp < shown <= stamp + self._leap and (len(ahead) < _AHEAD or any(ahead))

    def _judge(self, stamp: int, high: int) -> str:
        """Whether a stamp beyond the usual is a real gap ("gap"), a "new" clock, or "broken"."""
        ahead = self._stamps_ahead()
        if stamp > high:
            if any(high - self._slip <= other < stamp - self._slip for other in ahead):
                return "broken"
            return "gap" if stamp - high <= self._leap else "new"
        if stamp >= min(self._recent) or any(other >= high - self._slip for other in ahead):
            return "broken"
        return "new"


def _stamp(packet: "av.Packet") -> int | None:
    return packet.pts if packet.dts is None else packet.dts


class FrameClock:
    """Iterate (frame, start): whole frames in the order shown, with seconds since the first; `end` is where the last one ends.

    frames: with whether they are whole; others take their times with them. origin: the stamp of zero, None while there is none.
    """

    def __init__(self, frames: Iterable[tuple["av.VideoFrame", bool]], packets: PacketClock, timing: Timing) -> None:
        self._frames, self._packets, self._timing = frames, packets, timing
        self.origin: int | None = None
        self.by_decode_times = timing.decode_times
        self._longest = int(LONGEST_STILL / timing.base)
        self._lag: int | None = None
        self._end = 0
        self._latest: int | None = None

    @property
    def end(self) -> Fraction:
        """Seconds; with the empty packets at the file's end, which keep its last picture on screen."""
        still = self._packets.still_end
        end = self._end if still is None or self.origin is None else max(self._end, still - self.origin)
        return end * self._timing.base

    def __iter__(self) -> Iterator[tuple["av.VideoFrame", Fraction]]:
        held: list[av.VideoFrame] = []
        # Ticks since the first frame: of the last one placed, None before it. `counting`: it has no stamp of its own.
        last: int | None = None
        counting = False
        for frame, whole in self._frames:
            stamp = self._stamp(frame)
            if not whole:
                continue
            if stamp is not None and self.origin is None:
                self.origin = stamp - self._end
            place = None if stamp is None or self.origin is None else stamp - self.origin
            if place is not None and (last is None or place > last):
                step = min(self._timing.interval, (place - (last or 0)) // (len(held) + 1))
                for number, earlier in enumerate(held, 1):
                    yield self._placed(earlier, (last or 0) + number * step)
                yield self._placed(frame, place)
                held, last, counting = [], place, False
            elif place is not None and place != last and not counting:
                # Late: one after it was shown.
                continue
            elif self.origin is None or counting or len(held) == _HELD:
                # Nothing is known, or not for long: one frame after the other.
                counting = self.origin is not None
                for earlier in (*held, frame):
                    last = self._end
                    yield self._placed(earlier, last)
                held = []
            else:
                held.append(frame)
        for earlier in held:
            yield self._placed(earlier, self._end)

    def _placed(self, frame: "av.VideoFrame", place: int) -> tuple["av.VideoFrame", Fraction]:
        self._end = place + min(frame.duration or self._timing.interval, self._longest)
        return frame, place * self._timing.base

    def _stamp(self, frame: "av.VideoFrame") -> int | None:
        times = self._packets.times
        if not self._packets.rising or not times:
            return frame.pts
        earliest = times.popleft()
        if frame.pts is not None:
            # Packets rose and frames do not: their stamps are decoding times.
            self.by_decode_times |= self._latest is not None and frame.pts < self._latest
            self._latest = frame.pts
        if not self.by_decode_times and not (frame.pts is None and self._packets.decode_times_alone):
            return frame.pts
        if frame.dts is not None and earliest is not None:
            # Frames that the decoder lost take their times with them.
            lag = frame.dts - earliest
            self._lag = lag if self._lag is None else self._lag
            while lag > self._lag + _LOST * self._timing.interval and times:
                earliest = times.popleft()
                lag = frame.dts - earliest if earliest is not None else lag
        return earliest
