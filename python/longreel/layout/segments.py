"""What a sequence is made of: segments, in documents that share nothing, under a rule that says who attends to whom."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longreel.layout import row_sets
from longreel.layout.numbers import MOST_ROWS, check_segments, count, flag
from longreel.layout.row_sets import Line

Kind = Literal["padding", "prefix", "text", "vision", "voco", "vst"]
Attention = Literal["text", "image", "independent", "causal", "vst", "ranges"]

KINDS: tuple[Kind, ...] = ("padding", "text", "vision", "voco", "vst", "prefix")
CODE = {kind: code for code, kind in enumerate(KINDS)}
PADDING, TEXT, VISION, VOCO, VST, PREFIX = range(6)


class Segment(NamedTuple):
    """A run of rows of one kind. A "vst" segment is a chunk of Video-XL: visual rows with one VST row after every
    `ratio` of them, counting `carry` visual rows that the chunk before left without a VST."""

    kind: Kind
    length: int
    ratio: int = 0
    carry: int = 0


class VSTChunk(NamedTuple):
    """The numbers of one "vst" segment: visual row i stands at (i * (ratio + 1) + carry) // ratio, VST row j at
    first + j * (ratio + 1), counted from the segment's start."""

    visual: int
    vst: int
    first: int
    carry_out: int


def whole(segment: tuple[str, int] | Segment) -> Segment:
    """The segment with Python's own integers."""
    kind, *numbers = segment
    if not 1 <= len(numbers) <= 3:
        raise ValueError(f"a segment is (kind, rows), or a Segment; given {segment!r}")
    rows, *others = (f"rows of a {kind} segment", numbers[0]), *zip(("ratio", "carry"), numbers[1:], strict=False)
    return Segment(kind, count(*rows), *(count(*each, most=MOST_ROWS) for each in others))  # type: ignore[arg-type]


def chunk_segment(visual: int, ratio: int, carry: int) -> Segment:
    """The "vst" segment of `visual` visual tokens (Video-XL: VST after every `ratio` raw tokens, remainders carried)."""
    visual, ratio, carry = (
        count(*each, most=MOST_ROWS) for each in (("visual", visual), ("ratio", ratio), ("carry", carry))
    )
    if ratio < 1 or visual < 1:
        raise ValueError(f"a chunk has at least 1 visual token and ratio 1, given {visual} tokens at ratio {ratio}")
    if carry > ratio:
        raise ValueError(f"{carry} visual tokens are carried into a chunk of ratio {ratio}: more than one VST at once")
    return Segment("vst", visual + (visual + carry) // ratio, ratio, carry)


def chunk_of(segment: Segment) -> VSTChunk:
    """Counts of a "vst" segment from its length: VST row j is row first + j * (ratio + 1)."""
    first = segment.ratio - segment.carry
    vst = max(0, -(-(segment.length - first) // (segment.ratio + 1)))
    visual = segment.length - vst
    return VSTChunk(visual, vst, first, (visual + segment.carry) % segment.ratio)


def _check_chunk(segment: Segment) -> None:
    if segment.ratio < 1 or not 0 <= segment.carry <= segment.ratio:
        raise ValueError(
            f"a vst segment is Segment('vst', rows, ratio, carry) with a ratio of at least 1 and at most as much carried; given"
            f" {tuple(segment)}: VideoLayout.vst makes them"
        )


@dataclass(frozen=True)
class Rule:
    """Who attends to whom in a document; every rule but "ranges" is causal.

    attention:
      "text"         everything before it, or the last `window` rows (itself included) and the first `sinks` rows
      "image"        VoCo-LLaMA as released: rows up to the last VoCo attend to all before, later rows to all from the first VoCo
      "independent"  a frame (what ends with its VoCo rows) attends to itself only; text after the frames attends to all VoCo
      "causal"       a frame also attends to the VoCo of earlier frames
      "vst"          Video-XL: a chunk attends to itself, and prefix and VST of earlier chunks; text attends to prefix and all VST
      "ranges"       what the document's own lines say; rows that are appended attend to all before them in `window` and `chunk`
    frames_see_prefix, text_sees_prefix: rows before the first frame are visible to every frame (else to the first), to text.
    grows: rows may be appended; without, nobody has said what they would attend to.

    Behind the last frame of "independent" or "causal" may stand padding: a shorter question in a batch over one cache.
    """

    attention: Attention
    frames_see_prefix: bool = False
    text_sees_prefix: bool = False
    window: int | None = None
    sinks: int = 0
    chunk: int | None = None
    grows: bool = True

    def __post_init__(self) -> None:
        if self.attention not in _ORDER:
            raise ValueError(f"attention {self.attention!r} is not one of {', '.join(_ORDER)}")
        flag("frames_see_prefix", self.frames_see_prefix)
        flag("text_sees_prefix", self.text_sees_prefix)
        if self.window is not None:
            object.__setattr__(self, "window", min(MOST_ROWS, count("window", self.window, 1)))
        if self.chunk is not None:
            object.__setattr__(self, "chunk", min(MOST_ROWS, count("chunk", self.chunk, 1)))
        object.__setattr__(self, "sinks", min(MOST_ROWS, count("sinks", self.sinks)))


class Columns(NamedTuple):
    """The segments of a document as columns [n]: kind code, first row, length, ratio, carry."""

    kind: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    ratio: NDArray[np.int64]
    carry: NDArray[np.int64]


_ORDER = {
    "text": "any segments but vst",
    "image": "any segments but vst",
    "independent": "prefix, then frames of vision and text rows that end with voco rows, then text",
    "causal": "prefix, then frames of vision and text rows that end with voco rows, then text",
    "vst": "prefix, then vst chunks, then text",
    "ranges": "any segments but vst",
}


@dataclass(frozen=True)
class Document:
    """Rows that attend to one another only. Padding, whose rows attend to nothing and are visible to none, is a document of its
    own, or stands behind the last frame.

    lines, members: under "ranges" what every row attends to, and the global keys as (first, how many); see
    `longreel.layout.blocks`.
    """

    segments: tuple[Segment, ...]
    rule: Rule
    lines: tuple[Line, ...] = ()
    members: tuple[tuple[int, int], ...] = ()
    length: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        check_segments(len(self.segments))
        if any(type(number) is not int for segment in self.segments for number in segment[1:]):
            object.__setattr__(self, "segments", tuple(map(whole, self.segments)))
        object.__setattr__(self, "length", sum(segment.length for segment in self.segments))
        kinds = {segment.kind for segment in self.segments}
        unknown = kinds - CODE.keys()
        if unknown:
            raise ValueError(f"unknown segment kind {sorted(unknown)[0]!r}; allowed are {', '.join(KINDS)}")
        for segment in self.segments:
            if segment.length < 1:
                raise ValueError(f"a segment has at least 1 row; given {segment.length} of {segment.kind}")
        if "padding" in kinds and kinds != {"padding"} and not self._behind_frames():
            raise ValueError("padding stands between documents, before or after them, or behind the last frame of one")
        if not self._in_order(kinds):
            given = " ".join(segment.kind for segment in self.segments[:12])
            raise ValueError(
                f"attention {self.rule.attention!r} takes {_ORDER[self.rule.attention]}; given: {given}"
                + (" ..." if len(self.segments) > 12 else "")
            )
        for segment in self.segments if "vst" in kinds else ():
            if segment.kind == "vst":
                _check_chunk(segment)
        if sum(line[0] for line in self.lines) != (self.length if self.rule.attention == "ranges" else 0):
            raise ValueError(
                f"lines of attention 'ranges' say what each of the {self.length} rows attends to, no others have any:"
                " VideoLayout.blocks and VideoLayout.from_mask make them"
            )

    def _in_order(self, kinds: set[Kind]) -> bool:
        if kinds == {"padding"}:
            return True
        if self.rule.attention in ("text", "image", "ranges"):
            return "vst" not in kinds
        middle = "vst" if self.rule.attention == "vst" else "voco"
        places = [i for i, segment in enumerate(self.segments) if segment.kind == middle]
        first_frame = next(
            (i for i, segment in enumerate(self.segments) if segment.kind != "prefix"), len(self.segments)
        )
        last = places[-1] if places else first_frame - 1
        if any(segment.kind == "prefix" for segment in self.segments[first_frame:]):
            return False
        if middle == "vst":
            return places == list(range(first_frame, last + 1)) and kinds <= {"prefix", "vst", "text"}
        return "vst" not in kinds

    def _behind_frames(self) -> bool:
        """Whether all padding is one segment behind the last VoCo rows of a video."""
        kinds = [segment.kind for segment in self.segments]
        place = kinds.index("padding")
        frames = self.rule.attention in ("independent", "causal")
        return frames and kinds[place - 1] == "voco" and not {"padding", "voco", "vision"} & set(kinds[place + 1 :])

    @property
    def padding(self) -> bool:
        return bool(self.segments) and self.segments[0].kind == "padding"

    def columns(self) -> Columns:
        # One flat array a field: thousands of small tuples would set the garbage collector off.
        n = len(self.segments)
        kind = np.fromiter((CODE[segment.kind] for segment in self.segments), np.int64, n)
        length = np.fromiter((segment.length for segment in self.segments), np.int64, n)
        ratio = np.fromiter((segment.ratio for segment in self.segments), np.int64, n)
        carry = np.fromiter((segment.carry for segment in self.segments), np.int64, n)
        return Columns(kind, np.cumsum(length) - length, length, ratio, carry)

    def extended(self, rows: int) -> "Document":
        """The document with `rows` more text rows at its end."""
        rows = count("rows that a sequence grows by", rows)
        if rows == 0:
            return self
        if self.padding:
            raise ValueError("the last document is padding: only a sequence that ends with text or video grows")
        if not self.rule.grows:
            raise ValueError("what appended rows attend to is not known of this layout: make it of the whole length")
        more = (*self.segments[:-1], *joined((*self.segments[-1:], Segment("text", rows))))
        return replace(self, segments=more, lines=self.lines + self._appended(rows))

    def _appended(self, rows: int) -> tuple[Line, ...]:
        """Lines of `rows` more text rows."""
        if self.rule.attention != "ranges":
            return ()
        row = np.arange(self.length, self.length + rows)
        sets = row_sets.bounded(row_sets.causal(row), row, self.rule.window, self.rule.chunk)
        return row_sets.lines(row_sets.settled(sets, self.length + rows), row)


def joined(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """The same rows in the fewest segments: no empty one, neighbours of one kind as one (chunks stay apart)."""
    out: list[Segment] = []
    for segment in segments:
        if segment.length == 0:
            continue
        if out and out[-1].kind == segment.kind != "vst":
            out[-1] = Segment(segment.kind, out[-1].length + segment.length)
        else:
            out.append(segment)
    return tuple(out)
