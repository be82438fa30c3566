"""The made parts of README and docs/figures.md: an op's usual size beside all of its peers, and the headline."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path

from longreel.bench.cases import CASES
from longreel.bench.tables import markdown, seconds, size
from longreel.report.result_pairs import (
    DTYPES,
    NOISY,
    SCRIPTS,
    Line,
    Pair,
    commands,
    every_pair,
    machine,
    newest,
    noisy,
    on_gpu,
    op_lines,
    over,
    peers,
)

_MADE = re.compile(r"(<!-- made by benchmarks/tables.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADLINE = "headline"
# What the first page leads with: one figure each of reading patches, of masks, of a memory.
_LED_BY = ("compress_frames", "block_sparse_attention", "vst_attention")
# Of an op's cases these pages show the usual size, and those that differ from it in nothing but one of these columns.
_COLUMNS = {
    "block_sparse_attention": {
        "head size": "head_dim",
        "executed over visible FLOPs": "executed_over_visible_{variant}",
    }
}
_BESIDE = ["over the strongest PyTorch (quartiles)", "in earlier runs", "over other forms", "memory (theirs)"]


def filled(text: str, results: Path) -> str:
    """A page with its made parts made anew; ValueError for a part that names no op."""
    return _MADE.sub(lambda made: f"{made[1]}{_part(made[2], results)}{made[3]}", text)


def _part(op: str, results: Path) -> str:
    if op not in (HEADLINE, *CASES, *SCRIPTS):
        raise ValueError(f"a page asks for the figures of {op!r}: there is {', '.join((HEADLINE, *CASES, *SCRIPTS))}")
    out: list[str] = []
    folders = sorted(path for path in results.iterdir() if path.is_dir())
    # Of several machines the first page shows the one that was measured last.
    for folder in [max(folders, key=_last_date)] if op == HEADLINE and folders else folders:
        pairs = [pair for pair in every_pair(op_lines(folder)) if _is_usual(pair.ours, _free(pair.ours["op"]))]
        if op == HEADLINE:
            out += _headline(pairs)
        elif found := [pair for pair in pairs if pair.ours["op"] == op]:
            out += _table(op, found)
    if op != HEADLINE and not on_gpu(results):
        out += ["On a GPU: not measured yet (`make gpu` does).", ""]
    return "\n".join(["", *out, ""])


def _last_date(folder: Path) -> str:
    return max((str(line["machine"]["date"]) for line in op_lines(folder)), default="")


def _free(op: str) -> Iterable[str]:
    return _COLUMNS.get(op, {}).values()


def _is_usual(line: Line, free: Iterable[str]) -> bool:
    """Whether the shape is the op's usual one, but for the fields `free`."""
    if line["op"] not in CASES:
        return True
    usual = CASES[line["op"]].SIZES["hour"]
    # Older lines have no batch; all of them are of the usual one.
    return all(
        line.get(f.name, was) == was for f in fields(usual) if f.name not in free for was in [getattr(usual, f.name)]
    )


def _table(op: str, found: Sequence[Pair]) -> list[str]:
    """One row a case and variant of ours, beside all of its peers; then commands, and what the peers are."""
    shown = newest(found)
    shapes = "; ".join(dict.fromkeys(pair.ours["shape"] for pair in shown))
    columns = _COLUMNS.get(op, {})
    groups = groupby(shown, key=lambda pair: [pair.ours[key] for key in ("shape", "pass", "dtype", "variant")])
    rows = [_full_row(list(group), found, columns.values()) for _, group in groups]
    out = [f"{shapes[0].upper()}{shapes[1:]}. {machine([pair.ours['machine'] for pair in shown])}", ""]
    out += [*markdown(["pass", "dtype", *columns, "ours", *_BESIDE], rows, range(2)), ""]
    if any(noisy(pair) for pair in shown):
        out += [NOISY, ""]
    by_shape = groupby(shown, key=lambda pair: pair.ours["shape"])
    return [
        *out, "```", *(line for _, group in by_shape for line in commands(op, list(group))), "```", "",
        *peers(shown), "",
    ]  # fmt: skip


def _headline(pairs: Sequence[Pair]) -> list[str]:
    """A line of each leading op: its forward pass beside its fastest peer, in bf16 where that was measured."""
    led = [pair for pair in newest(pairs) if pair.ours["op"] in _LED_BY]
    shown = [pair for pair in led if pair.ours["pass"] == "forward" and _is_usual(pair.ours, ())]
    groups = groupby(shown, key=lambda pair: [pair.ours[key] for key in ("op", "shape", "dtype", "variant")])
    every = sorted((next(group) for _, group in groups), key=lambda pair: (pair.ours["op"], pair.ours["dtype"]))
    best = [next(group) for _, group in groupby(every, key=lambda pair: str(pair.ours["op"]))]
    if not best:
        return []
    rows = [
        [
            f"`{pair.ours['op']}`, {pair.ours['shape']}", DTYPES[pair.ours["dtype"]],
            seconds(pair.ours["seconds"]["median"]), over(pair), _earlier(pair, pairs),
        ]
        for pair in best
    ]  # fmt: skip
    where = machine([pair.ours["machine"] for pair in best]).rstrip(".")
    return [*markdown([f"forward ({where})", "dtype", "ours", *_BESIDE[:2]], rows, range(2)), ""]


def _earlier(best: Pair, found: Sequence[Pair]) -> str:
    """The lowest and the highest ratio of earlier runs of the same."""
    earlier = sorted(p.ratio["median"] for p in found if p.case == best.case and p is not best and p.ratio)
    return "–".join(f"{ratio:.2f}x" for ratio in dict.fromkeys((earlier[0], earlier[-1]))) if earlier else "–"


def _full_row(group: Sequence[Pair], found: Sequence[Pair], columns: Iterable[str]) -> list[str]:
    best, others = group[0], group[1:]
    ours = best.ours
    asked = [ours.get(key.format(variant=ours["variant"])) for key in columns]
    names = ", ".join(f"`{pair.peer['variant']}` {size(pair.peer['extra_bytes'])}" for pair in group)
    return [
        ours["pass"], DTYPES[ours["dtype"]],
        *("–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value) for value in asked),
        f"{seconds(ours['seconds']['median'])} (`{ours['variant']}`)", f"`{best.peer['variant']}` {over(best)}",
        _earlier(best, found), ", ".join(f"`{pair.peer['variant']}` {over(pair)}" for pair in others) or "–",
        f"{size(ours['extra_bytes'])} ({names})",
    ]  # fmt: skip
