"""Which decoded frames can be shown: one that is predicted from a damaged or lost one is as wrong, though no decoder says so."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import av

# So many frames a decoder may hold back to put them in order.
_REORDERED = 16


class _Group(NamedTuple):
    """A key frame, by number and time, and the packets up to the next; before: the number of the key frame before, 0: none."""

    number: int
    time: int | None
    before: int


class _Frame(NamedTuple):
    frame: "av.VideoFrame"
    number: int
    group: _Group | None
    leading: bool


class Sieve:
    """Frames in the order shown, each with whether it is whole: between its key frame and itself, as decoded, nothing is damaged.

    Packets are numbered as the decoder is given them, and a frame carries the number of its packet. Frames that lead, shown
    before the key frame that they follow, are predicted from the group before it too, and nothing is predicted from them. What
    comes before the first key frame (a recording cut in the middle) is judged by the decoder alone.
    """

    def __init__(self, decoder: "av.VideoCodecContext") -> None:
        decoder.copy_opaque = True
        self._number = 0
        self._group: _Group | None = None
        # Of packets whose frame has not come: group and time.
        self._pending: dict[int, tuple[_Group | None, int | None]] = {}
        # By the number of its key frame, of a damaged group the first number that is.
        self._damaged: dict[int, int] = {}
        self._held: deque[_Frame] = deque()
        self._refused = False

    def give(self, packet: "av.Packet") -> None:
        """The packet goes to the decoder next."""
        self._number += 1
        if packet.is_keyframe:
            self._group = _Group(self._number, packet.pts, 0 if self._group is None else self._group.number)
        packet.opaque = self._number
        self._pending[self._number] = self._group, packet.pts

    def lose(self) -> None:
        """The last packet gives no frame."""
        del self._pending[self._number]
        self._damage(self._group, self._number)

    def refuse(self) -> None:
        """The decoder refused a packet: the last, or one before it that other threads were at."""
        if self._pending[self._number][1] is None:
            self.lose()
        else:
            self._refused = True

    def sift(self, frames: Iterable["av.VideoFrame"]) -> Iterator[tuple["av.VideoFrame", bool]]:
        """Frames as they come from the decoder; each waits for those that were decoded before it."""
        for frame in frames:
            number = frame.opaque if isinstance(frame.opaque, int) else self._number
            group, _ = self._pending.pop(number, (self._group, None))
            leading = group is not None and None not in (frame.pts, group.time) and frame.pts < group.time  # type: ignore[operator]
            if frame.is_corrupt and not leading:
                self._damage(group, number)
            self._miss(frame.pts)
            self._held.append(_Frame(frame, number, group, leading))
            while self._held and min(self._pending, default=number + 1) > self._held[0].number:
                yield self._next()
            while len(self._held) > _REORDERED:
                self._pending = {n: told for n, told in self._pending.items() if n > self._held[0].number}
                yield self._next()

    def rest(self) -> Iterator[tuple["av.VideoFrame", bool]]:
        """Frames that wait when no more come."""
        while self._held:
            yield self._next()

    def _next(self) -> tuple["av.VideoFrame", bool]:
        frame, number, group, leading = self._held.popleft()
        whole = not frame.is_corrupt and (group is None or self._damaged.get(group.number, number + 1) > number)
        if leading and group is not None and group.before in self._damaged:
            whole = False
        return frame, whole

    def _damage(self, group: _Group | None, number: int) -> None:
        if group is not None:
            self._damaged[group.number] = min(number, self._damaged.get(group.number, number))

    def _miss(self, shown: int | None) -> None:
        """Packets from before the one shown now give no frame any more."""
        if shown is None:
            return
        gone = [n for n, (_, time) in self._pending.items() if time is not None and time < shown]
        for number in gone:
            group, _ = self._pending.pop(number)
            if self._refused:
                self._damage(group, number)
        self._refused = self._refused and not gone
