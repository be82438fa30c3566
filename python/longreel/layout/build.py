"""Documents from what a caller knows: counts, chunks, token kinds."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from longreel.layout.numbers import check_rows, check_segments, count, flag
from longreel.layout.ratios import RatioDraw, chunk_lengths
from longreel.layout.segments import CODE, Document, Kind, Rule, Segment, chunk_of, chunk_segment, joined, whole

PrefixVisibleTo = Literal["first", "frames", "all"]
Kinds = torch.Tensor | NDArray[np.integer] | Sequence[Sequence[int]]

GIVEN_KINDS: tuple[Kind, ...] = ("padding", "text", "vision", "voco")


def documents(segments: Sequence[tuple[str, int] | Segment], rule: Rule) -> tuple[Document, ...]:
    """Segments -> padding before, one document, padding after."""
    if not isinstance(segments, Sequence) or isinstance(segments, str):
        raise TypeError(f"segments are a list of (kind, rows); given {type(segments).__name__}")
    check_segments(len(segments))
    for segment in segments:
        if not isinstance(segment, Sequence) or not len(segment):
            raise TypeError(f"a segment is (kind, rows), or a Segment; given {segment!r}")
        if segment[0] not in CODE:
            raise ValueError(f"unknown segment kind {segment[0]!r}; allowed are {', '.join(CODE)}")
    every = joined(map(whole, segments))
    real = [i for i, segment in enumerate(every) if segment.kind != "padding"]
    if not real:
        return tuple(Document((segment,), Rule("text")) for segment in every)
    before, inside, after = every[: real[0]], every[real[0] : real[-1] + 1], every[real[-1] + 1 :]
    pads = [tuple(Document((segment,), Rule("text")) for segment in part) for part in (before, after)]
    return (*pads[0], Document(inside, rule), *pads[1])


def voco(
    frames: int, vision: int, voco: int, text: int, prefix: int, separator: int, mode: str, prefix_visible_to: str,
    text_sees_prefix: bool,
) -> Document:  # fmt: skip
    frames, vision, voco = count("frames", frames, 1), count("vision", vision, 1), count("voco", voco, 1)
    text, prefix, separator = count("text", text), count("prefix", prefix), count("separator", separator)
    flag("text_sees_prefix", text_sees_prefix)
    if mode not in ("independent", "causal"):
        raise ValueError(f"mode={mode!r} is not one of 'independent', 'causal'")
    if prefix_visible_to not in ("first", "frames", "all"):
        raise ValueError(f"prefix_visible_to={prefix_visible_to!r} is not one of 'first', 'frames', 'all'")
    check_rows(prefix + frames * (vision + separator + voco) + text)
    check_segments(frames * (2 + bool(separator)))
    frame = joined([Segment("vision", vision), Segment("text", separator), Segment("voco", voco)])
    segments = (*joined([Segment("prefix", prefix)]), *frame * frames, *joined([Segment("text", text)]))
    to_frames = prefix_visible_to != "first" and prefix > 0 and frames > 1
    to_text = (text_sees_prefix or prefix_visible_to == "all") and prefix > 0
    return Document(segments, Rule("image" if frames == 1 else mode, to_frames, to_text))  # type: ignore[arg-type]


def vst(
    visual: int | None, chunk: int, ratio: int | Sequence[tuple[int, int]] | None, ratio_mix: Sequence[int] | None,
    draw: str, seed: int | np.random.Generator, max_positions: int, prefix: int, text: int,
) -> Document:  # fmt: skip
    if (ratio is None) == (ratio_mix is None):
        raise ValueError("give ratio= (a number, or a list of (visual tokens, ratio)) or ratio_mix=, not both")
    prefix, text = count("prefix", prefix), count("text", text)
    visual = visual if visual is None else count("visual", visual)
    check_rows(prefix + (visual or 0) + text)
    if isinstance(ratio, Sequence):
        check_segments(len(ratio))
        chunks = [_pair(each) for each in ratio]
        if visual is not None and visual != sum(length for length, _ in chunks):
            raise ValueError(f"visual={visual}, but the chunks of ratio= hold {sum(length for length, _ in chunks)}")
    elif visual is None:
        raise ValueError(f"visual=None, chunk={chunk}: chunks are cut from a number of visual tokens, at least 1 each")
    elif ratio_mix is None:
        one = count("ratio", ratio)
        chunks = [(length, one) for length in chunk_lengths(visual, chunk)]
    else:
        ratios = RatioDraw(ratio_mix, draw, seed=seed, length=prefix + visual + text, max_positions=max_positions)
        chunks = [(length, ratios.next(length)) for length in chunk_lengths(visual, chunk)]
    # Chunks that are alike are one object: there may be millions.
    made: dict[tuple[int, int, int], tuple[Segment, int]] = {}
    segments, carry = [], 0
    for length, each in chunks:
        if (length, each, carry) not in made:
            segment = chunk_segment(length, each, carry)
            made[length, each, carry] = segment, chunk_of(segment).carry_out
        segment, carry = made[length, each, carry]
        segments.append(segment)
    return Document(
        (*joined([Segment("prefix", prefix)]), *segments, *joined([Segment("text", text)])), Rule("vst", True, True)
    )


def _pair(chunk: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(chunk, Sequence) or len(chunk) != 2:
        raise ValueError(
            f"ratio= is one number, or the chunks as pairs (visual tokens, ratio); given {chunk!r} among them"
        )
    return count("visual tokens of a chunk", chunk[0]), count("ratio", chunk[1])


def checked_kinds(kinds: Kinds) -> NDArray[np.int64]:
    table = np.asarray(kinds.detach().cpu() if isinstance(kinds, torch.Tensor) else kinds)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"kinds is an integer array [B, S], given {table.dtype} {list(table.shape)}")
    if table.size and not 0 <= table.min() <= table.max() < len(GIVEN_KINDS):
        raise ValueError(f"kinds are 0 padding, 1 text, 2 vision, 3 VoCo; given {table.min()} .. {table.max()}")
    return table.astype(np.int64)


def from_kinds(row: NDArray[np.int64], rule: Rule) -> tuple[Document, ...]:
    edges = np.flatnonzero(np.diff(row)) + 1
    starts = np.concatenate([[0], edges]).astype(np.int64)[: len(row)]
    lengths = np.diff([*starts, len(row)])
    pieces = [
        Segment(GIVEN_KINDS[kind], length) for kind, length in zip(row[starts].tolist(), lengths.tolist(), strict=True)
    ]
    if not (row == VOCO_KIND).any():
        return documents(pieces, Rule("text"))
    first = next(i for i, piece in enumerate(pieces) if piece.kind != "padding")
    if pieces[first].kind == "text":
        pieces[first] = Segment("prefix", pieces[first].length)
    return documents(pieces, rule)


VOCO_KIND = GIVEN_KINDS.index("voco")


def padding(rows: int) -> tuple[Document, ...]:
    return tuple(Document((segment,), Rule("text")) for segment in joined([Segment("padding", rows)]))


def with_padding(pad: tuple[Document, ...], rest: tuple[Document, ...]) -> tuple[Document, ...]:
    """Padding before the documents, as one with the padding that is there."""
    if pad and rest and rest[0].padding:
        return (*padding(pad[0].length + rest[0].length), *rest[1:])
    return (*pad, *rest)


def leading_padding(sample: tuple[Document, ...]) -> int:
    return sum(document.length for document in takewhile(lambda document: document.padding, sample))


def summary(sample: tuple[Document, ...]) -> str:
    """The documents of a sample in a line, long ones cut short."""
    parts = []
    for document in sample[:4]:
        rows = [f"{segment.kind} {segment.length}" for segment in document.segments]
        cut = rows if len(rows) <= 6 else [*rows[:3], f"... {len(rows) - 4} segments ...", rows[-1]]
        parts.append(f"{'' if document.padding else document.rule.attention}({', '.join(cut)})")
    return " + ".join([*parts, "..."] if len(sample) > 4 else parts)
