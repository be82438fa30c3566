"""Which packets of a video nobody needs: where frames come in order, those behind the last sampling time of their group; where
they do not, those that no other is predicted from and no sampling time falls on."""

import bisect
import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

# Packets between two whose frames are shown one after the other: at most.
_REACH = 20


class Odd(Exception):
    """The file is not as its index says, or damaged here."""


class Idle:
    """Asked of every packet before it is decoded, told every frame that comes out: behind a gap comes a key frame, or Odd.

    keys: decoding times of all key frames, ascending. Packets are in the order shown: one is needed where a sampling time falls
    between it and the next key frame, on it or on a later one of its group. The last frame decoded stays on screen until then.
    """

    def __init__(self, keys: Sequence[int]) -> None:
        self._keys = keys
        self._origin, self._up, self._down = 0, 0, 1
        self._due: deque[int] = deque()

    def begin(self, origin: int, step: Fraction) -> None:
        """From here on: the stamp of time zero, and the ticks from one sampling time to the next."""
        self._origin, self._up, self._down = origin, step.numerator, step.denominator

    def skips(self, packet: "av.Packet") -> bool:
        """Whether it is left out."""
        if not self._up or packet.is_keyframe or packet.pts is None or packet.dts is None:
            return False
        place = bisect.bisect_right(self._keys, packet.dts)
        if place == len(self._keys):
            return False
        shown = self._keys[place] + packet.pts - packet.dts
        # The first sampling time at or after this packet, and the next key frame's time, both times `down`.
        first = -((self._origin - packet.pts) * self._down // self._up) * self._up
        if first < (shown - self._origin) * self._down:
            return False
        if not self._due or self._due[-1] != shown:
            self._due.append(shown)
        return True

    def check(self, stamp: int | None, whole: bool) -> None:
        """Of every frame that comes out, in order."""
        if not self._due:
            return
        if stamp is None or stamp > self._due[0] or (stamp == self._due[0] and not whole):
            raise Odd
        if stamp == self._due[0]:
            self._due.popleft()


class Disposable:
    """Iterate packets (`over`), the decoder told before each whether it may leave it out as one that nothing is predicted from.

    It may where no sampling time falls between the packet's presentation time and the next one among its neighbours. All others
    that are wanted must come out whole, else Odd: what is lost would show what was left out.
    """

    def __init__(self, decoder: "av.VideoCodecContext", used: bool) -> None:
        self._decoder, self._used = decoder, used
        self._origin, self._up, self._down = 0, 0, 1
        self._due: list[int] = []
        # Whether times ever stepped back: those that only rise are decoding times, whatever the file calls them.
        self._reordered, self._latest = False, 0

    def begin(self, origin: int, step: Fraction) -> None:
        """As `Idle.begin`."""
        self._origin, self._up, self._down = origin, step.numerator, step.denominator

    def over(self, packets: Iterable["av.Packet"]) -> Iterator["av.Packet"]:
        """The same packets."""
        if not self._used:
            yield from packets
            return
        ahead, near = deque["av.Packet"](), deque[int](maxlen=2 * _REACH + 1)
        for packet in packets:
            ahead.append(packet)
            if packet.pts is not None and not packet.is_discard:
                self._reordered |= bool(near) and packet.pts < self._latest
                self._latest = packet.pts
                near.append(packet.pts)
            if len(ahead) > _REACH:
                yield self._told(ahead.popleft(), near)
        while ahead:
            yield self._told(ahead.popleft(), near)

    def check(self, stamp: int | None, whole: bool, least: int | None = None) -> None:
        """Of every frame that comes out, in order; those stamped before `least` may be lost."""
        while least is not None and self._due and self._due[0] < least:
            heapq.heappop(self._due)
        if not self._due:
            return
        if stamp is None or stamp > self._due[0] or (stamp == self._due[0] and not whole):
            raise Odd
        while self._due and stamp == self._due[0]:
            heapq.heappop(self._due)

    def end(self) -> None:
        """No more frames come."""
        if self._due:
            raise Odd

    def _told(self, packet: "av.Packet", near: Iterable[int]) -> "av.Packet":
        time, spare = packet.pts, False
        if self._up and self._reordered and time is not None and not packet.is_discard:
            later = min((other for other in near if other > time), default=None)
            first = -((self._origin - time) * self._down // self._up) * self._up
            if later is None or first < (later - self._origin) * self._down:
                heapq.heappush(self._due, time)
            else:
                spare = not packet.is_keyframe
        self._decoder.skip_frame = "NONREF" if spare else "DEFAULT"
        return packet
