"""Which packets of a video nobody needs: those behind the last sampling time of their group, where frames come in order."""

import bisect
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av


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
