"""Pictures of a layout, and of a model's mask: rows downwards, keys to the right."""

from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from longreel.layout._positions import query_rows
from longreel.layout._ranges import Ints, Ranges, ranges, row_bounds
from longreel.layout.global_keys import expanded, global_ranges
from longreel.layout.labels import kinds
from longreel.layout.planned import PlannedLayout
from longreel.layout.segments import KINDS
from longreel.layout.video_layout import VideoLayout

LETTERS = ".tvVSp"
COLOURS = {
    "padding": "#d7dce2", "text": "#3b6fb6", "vision": "#8fbf6f", "voco": "#d9822b", "vst": "#b5485d", "prefix": "#7a5fa8",
}  # fmt: skip
_SHADES = " ░▒▓█"


def draw(
    mask: VideoLayout | PlannedLayout | Tensor | Callable[..., Any],
    length: int = 64,
    *,
    sample: int = 0,
    width: int = 64,
) -> None:
    """Prints a mask in at most `width` columns: of a layout; of a mask function of transformers or FlexAttention, over `length`
    rows and keys; or a dense one [..., Sq, Sk], bool or added to scores, whose last sample is taken by `sample`."""
    if isinstance(mask, VideoLayout | PlannedLayout):
        print(to_ascii(mask if isinstance(mask, VideoLayout) else mask.layout, sample, width))
    elif isinstance(mask, Tensor):
        visible = mask > mask.min() / 2 if mask.dtype.is_floating_point else mask.bool()
        print(_dense(visible.reshape(-1, *visible.shape[-2:])[sample].cpu().numpy(), width))
    else:
        print(to_ascii(VideoLayout.from_mask(mask, length, batch=sample + 1), sample, width))


def _dense(visible: NDArray[np.bool_], width: int) -> str:
    step = max(1, -(-max(visible.shape) // width))
    lines = []
    for q in range(0, visible.shape[0], step):
        rows = visible[q : q + step]
        share = [rows[:, k : k + step].mean() for k in range(0, visible.shape[1], step)]
        lines.append("".join(_shade(s) for s in share).rstrip())
    return "\n".join(lines)


def _shade(share: float) -> str:
    return _SHADES[4 if share >= 1 else int(np.ceil(share * 3))]


def to_ascii(layout: VideoLayout, sample: int = 0, width: int = 64) -> str:
    """The mask in at most `width` columns: darker means more of the pairs are visible; kinds stand at both edges
    (p prefix, v vision, V VoCo, S VST, t text, . padding)."""
    if width < 1:
        raise ValueError(f"width={width} is below 1")
    rows, keys = layout.queries, layout.keys
    step = max(1, -(-max(rows, keys) // width))
    counts = _counts(layout, sample, step)
    height = np.minimum(step, rows - np.arange(counts.shape[0]) * step)
    across = np.minimum(step, keys - np.arange(counts.shape[1]) * step)
    share = counts / (height[:, None] * across)
    own = kinds(layout)[sample]
    top = "".join(_letter(own[k * step : (k + 1) * step]) for k in range(counts.shape[1]))
    queries = own[query_rows(layout)[sample]]
    side = [_letter(queries[q * step : (q + 1) * step]) for q in range(counts.shape[0])]
    lines = [f"{letter} {''.join(map(_shade, line))}".rstrip() for letter, line in zip(side, share, strict=True)]
    legend = f"{rows} rows x {keys} keys" + (f", {step} x {step} to a character" if step > 1 else "")
    return "\n".join([f"  {top}", *lines, f"  {legend}"])


def to_svg(layout: VideoLayout, sample: int = 0, size: int = 480, title: str | None = None) -> str:
    """The mask as SVG with one shape per range segment and run of global keys, not per pair; kinds colour the edges."""
    r = ranges(layout)
    own = Ranges(*(column[r.sample == sample] for column in r))
    scale = size / max(1, layout.keys, layout.queries)
    edge, left, top = 10, 24, 40 if title else 24
    wide, high = layout.keys * scale, layout.queries * scale
    gathered = global_ranges(layout)[sample]
    shapes = [f'<rect x="0" y="0" width="{wide:.2f}" height="{high:.2f}" fill="#ffffff" stroke="#c5ccd4"/>']
    for i in range(len(own.rows)):
        shapes += _segment_shapes(own, i, gathered, scale)
    row_kinds = kinds(layout)[sample]
    shapes += _edge(row_kinds[: layout.keys], scale, edge, across=True)
    shapes += _edge(row_kinds[query_rows(layout)[sample]], scale, edge, across=False)
    present = [kind for code, kind in enumerate(KINDS) if (row_kinds == code).any()]
    legend = "".join(
        f'<rect x="{x}" y="{high + 14:.2f}" width="10" height="10" fill="{COLOURS[kind]}"/>'
        f'<text x="{x + 14}" y="{high + 23:.2f}" font-size="11">{kind}</text>'
        for x, kind in zip(range(0, 74 * len(present), 74), present, strict=True)
    )
    heading = f'<text x="0" y="-18" font-size="13" font-weight="600">{escape(title)}</text>' if title else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(wide, 74 * len(present)) + left + 12:.0f}"'
        f' height="{high + top + 36:.0f}" font-family="sans-serif" fill="#22303c">'
        f'<g transform="translate({left},{top})">{heading}{"".join(shapes)}{legend}</g></svg>\n'
    )


def _counts(layout: VideoLayout, sample: int, step: int) -> NDArray[np.int64]:
    """Visible pairs in every step x step cell, row by row: O(rows * cells of a row)."""
    bounds = [array[sample] for array in row_bounds(layout)]
    edges = np.append(np.arange(0, layout.keys, step), layout.keys)
    places = np.searchsorted(expanded(global_ranges(layout)[sample]), edges)
    counts = np.zeros((-(-layout.queries // step), len(edges) - 1), np.int64)
    for q in range(counts.shape[0]):
        lo, hi, glo, ghi = (array[q * step : (q + 1) * step, None] for array in bounds)
        local = np.minimum(hi, edges[1:]) - np.maximum(lo, edges[:-1])
        global_ = np.minimum(ghi, places[1:]) - np.maximum(glo, places[:-1])
        counts[q] = np.maximum(local, 0).sum(0) + np.maximum(global_, 0).sum(0)
    return counts


def _letter(codes: NDArray[np.uint8]) -> str:
    """The kind of a cell: the rarest that is in it, so that VoCo and VST stay visible."""
    for code in (4, 3, 5, 1, 2, 0):
        if (codes == code).any():
            return LETTERS[code]
    return " "


def _segment_shapes(r: Ranges, i: int, gathered: Ints, scale: float) -> list[str]:
    row, rows = int(r.row[i]), int(r.rows[i])
    last = rows - 1
    lo, hi = int(r.lo[i]), int(r.hi[i] + r.carry[i] // r.over[i])
    lo_last = lo + last * int(r.lo_step[i])
    hi_last = int(r.hi[i] + (last * r.up[i] + r.carry[i]) // r.over[i])
    shapes = []
    if lo < hi:
        # Causal rows end on a slope.
        corners = [(lo, row), (hi - int(r.up[i] > 0), row), (hi_last, row + rows), (lo_last, row + rows)]
        points = " ".join(f"{x * scale:.2f},{y * scale:.2f}" for x, y in corners)
        shapes.append(f'<polygon points="{points}" fill="#4a5d70"/>')
    before = np.cumsum(gathered[:, 1]) - gathered[:, 1]
    for (first, count, stride), place in zip(gathered.tolist(), before.tolist(), strict=True):
        a, b = max(0, int(r.glo[i]) - place), min(count, int(r.ghi[i]) - place)
        if a < b:
            # Strided ranges (VST) are drawn as one pale band over the keys they lie between.
            x, wide = first + a * stride, (b - a - 1) * stride + 1
            shapes.append(
                f'<rect x="{x * scale:.2f}" y="{row * scale:.2f}" width="{wide * scale:.2f}" height="{rows * scale:.2f}"'
                f' fill="#d9822b" fill-opacity="{1 if stride == 1 else max(0.25, 1 / stride):.2f}"/>'
            )
    return shapes


def _edge(codes: NDArray[np.uint8], scale: float, edge: int, across: bool) -> list[str]:
    """A strip of kinds above or left of the mask; interleaved VST show as the rarer colour over the other."""
    if len(codes) == 0:
        return []
    cuts = np.flatnonzero(np.diff(codes)) + 1
    starts, ends = np.concatenate([[0], cuts]), np.append(cuts, len(codes))
    strips = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        colour, at, length = COLOURS[KINDS[codes[start]]], f"{start * scale:.2f}", f"{(end - start) * scale:.2f}"
        place = (
            f'x="{at}" y="-{edge + 2}" width="{length}" height="{edge}"'
            if across
            else f'x="-{edge + 2}" y="{at}" width="{edge}" height="{length}"'
        )
        strips.append(f'<rect {place} fill="{colour}"/>')
    return strips
