"""Which decoded frames can be shown: one that is predicted from a damaged or lost one is as wrong, though no decoder says so."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import av

# So many frames a decoder may hold back to put them in order, and so many packets it is behind at most.
_REORDERED = 16
_BEHIND = 64


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
        self._decoder = decoder
        self._number = 0
        self._group: _Group | None = None
        # By number, of the last packets.
        self._groups: dict[int, _Group | None] = {}
        # Times of packets whose frame may still come.
        self._pending: dict[int, int | None] = {}
        # By the number of its key frame, of a damaged group the first number that is.
        self._damaged: dict[int, int] = {}
        self._held: deque[_Frame] = deque()

    def give(self, packet: "av.Packet") -> None:
        """The packet goes to the decoder next."""
        self._number += 1
        if packet.is_keyframe:
            self._group = _Group(self._number, packet.pts, 0 if self._group is None else self._group.number)
        # PyAV knows what it carries by its id, and small numbers are one object in all decoders of a process: the first of two
        # that is freed would take the other's away.
        packet.opaque = (self._number,)
        self._groups[self._number], self._pending[self._number] = self._group, packet.pts
        self._groups.pop(self._number - _BEHIND, None)
        self._pending.pop(self._number - _BEHIND, None)

    def lose(self, behind: int = 0) -> None:
        """The last packet gives no frame, or the one so many before it."""
        number = self._number - behind
        self._pending.pop(number, None)
        self._damage(self._groups.get(number), number)

    def refuse(self) -> None:
        """The decoder refused a packet: with threads beside each other it says so of the one that comes out."""
        self.lose(int(self._decoder.delay))

    def sift(self, frames: Iterable["av.VideoFrame"]) -> Iterator[tuple["av.VideoFrame", bool]]:
        """Frames as they come from the decoder; each waits for those that were decoded before it."""
        for frame in frames:
            number = frame.opaque[0] if isinstance(frame.opaque, tuple) else self._number
            group = self._groups.get(number, self._group)
            self._pending.pop(number, None)
            leading = group is not None and _before(frame.pts, group.time)
            if frame.is_corrupt and not leading:
                self._damage(group, number)
            # Packets that give no frame of their own (fields, pictures that are never shown) are not waited for.
            for gone in [n for n, time in self._pending.items() if _before(time, frame.pts)]:
                del self._pending[gone]
            self._held.append(_Frame(frame, number, group, leading))
            while self._held and (
                len(self._held) > _REORDERED or min(self._pending, default=number + 1) > self._held[0].number
            ):
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


def _before(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one < other
