"""Lines of result files: what each sort of them holds, and the check of those that somebody names."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from longreel.bench.cases import CASES
from longreel.files.foreign import ForeignError, read_json_lines, shown
from longreel.files.forms import COUNT, NUMBER, POSITIVE, Form, Number, check_form
from longreel.models.record import OURS, REFERENCE
from longreel.models.registry import SYSTEMS, find

Line = dict[str, Any]

DTYPES = {"bfloat16": "bf16", "float32": "fp32", "float16": "fp16"}
PASSES = {"forward": "none", "forward + backward (query)": "query", "forward + backward (all)": "all"}
SCRIPTS = {"token_generation": "python benchmarks/token_generation.py"}

# What a sort of lines is told by, in this order.
OP, RUN, HEADLINE, SWEPT, GROWTH = "op", "run", "headline", "profile", "profile growth"

_NONE = type(None)
_TEXT, _SOME, _NOT_LESS = (_NONE, str), (_NONE, NUMBER), Number(least=0)
_SECONDS: Form = {"*": _NOT_LESS}
_RATIO: Form = {"median": POSITIVE, "low": POSITIVE, "high": POSITIVE, "runs?": COUNT, "halves?": (_NONE, _NOT_LESS)}
_COMPARED: Form = {
    "op": str, "shape": str, "pass": frozenset(PASSES), "dtype": frozenset(DTYPES), "variant": str, "note": str,
    "seconds": (_NONE, {"median": POSITIVE}), "speedup_over": {"*": _RATIO}, "taken_by_others": _SOME,
    "machine": {"device": str, "cpu_isa": _TEXT, "threads": (_NONE, COUNT), "torch": str, "date": str},
    "roof?": (_NONE, {"bandwidth?": (_NONE, POSITIVE), "matrix?": (_NONE, POSITIVE)}),
}  # fmt: skip
_MACHINE: Form = {**_COMPARED["machine"], "cuda": _TEXT}
_OP: Form = _COMPARED | {
    "machine": _MACHINE | {"git": _TEXT}, "allocated?": _TEXT, "extra_bytes": _SOME,
    "work": {"flops": _NOT_LESS, "bytes_read": _NOT_LESS, "bytes_written": _NOT_LESS},
    "share_of_roof": _SOME, "share_of_sparsity_bound?": _SOME,
}  # fmt: skip
_RUN: Form = _MACHINE | {
    "case": {
        "system": str, "preset": str, "input": str, "ops": frozenset({OURS, REFERENCE, "both"}),
        "memory_cap_gib": (_NONE, POSITIVE), "frames": COUNT, "at_once": bool,
        "*": (_NONE, bool, str, NUMBER),
    },
    "outcome": str,
}  # fmt: skip
_FORMULA: Form = {
    "headline": str, "by": str, "system": str, "differs": str, "paper": str, "fits": (_NONE, bool), "cap_gib": _SOME,
    "most": (_NONE, COUNT), "frames": COUNT, "tokens": COUNT, "positions": COUNT, "limit": COUNT, "flops": _NOT_LESS,
    "cache_bytes": _NOT_LESS, "peak_bytes": _NOT_LESS,
}  # fmt: skip
_SWEPT: Form = {
    "system": str, "preset": str, "frames": Number(whole=True, above=0), "tokens": COUNT, "tokens_bytes": COUNT,
    "end_to_end_ratio?": POSITIVE, "peak_memory_bytes": {OURS: COUNT, "*": COUNT}, "total_s": {OURS: POSITIVE, "*": POSITIVE},
    "cpu_s": {OURS: POSITIVE}, "stages_s": {OURS: _SECONDS}, "stages_cpu_s": {OURS: _SECONDS},
}  # fmt: skip


def read_lines(path: Path) -> list[Line]:
    """The op results of a file that somebody names, as far as they are compared.

    Raises:
        ForeignError: what is there is no file of results, in one line.
    """
    lines = []
    for where, line in read_json_lines(path):
        if not line.keys() >= {name for name in _COMPARED if not name.endswith("?")}:
            raise ForeignError(f"{where} is no result of `longreel bench --json`")
        _check_compared(line, where)
        lines.append(line)
    if not lines:
        raise ForeignError(f"{path} holds no results")
    return lines


def read_sorted(path: Path) -> list[tuple[str, Line]]:
    """The lines of a file that somebody names, with their sorts; those of none are left out.

    Raises:
        ForeignError: there is no such file, or a line is not what its sort holds, in one line.
    """
    found = []
    for where, line in read_json_lines(path):
        sort = _sort(line)
        if sort is not None:
            _CHECKS[sort](line, where)
            found.append((sort, line))
    return found


def _sort(line: Line) -> str | None:
    for names, sort in (
        ({"op", "variant", "speedup_over"}, OP), ({"case", "outcome"}, RUN), ({"headline", "by"}, HEADLINE),
    ):  # fmt: skip
        if names <= line.keys():
            return sort
    command = line.get("command")
    return command if command in (SWEPT, GROWTH) else None


def _check_compared(line: Line, where: str, form: Form = _COMPARED) -> None:
    check_form(line, form, where)
    for name, ratio in line["speedup_over"].items():
        if not ratio["low"] <= ratio["median"] <= ratio["high"]:
            raise ForeignError(f"{where}: the ratio over {shown(name)} lies outside of its quartiles")


def _check_op(line: Line, where: str) -> None:
    _check_compared(line, where, _OP)
    if line["op"] not in CASES and line["op"] not in SCRIPTS:
        raise ForeignError(f"{where}: op {shown(line['op'])}: there is {', '.join([*CASES, *SCRIPTS])}")


def _check_run(line: Line, where: str) -> None:
    check_form(line, _RUN, where)
    case = line["case"]
    _check_system(case["system"], where)
    if line["outcome"] != "ok":
        return
    path = REFERENCE if case["ops"] == REFERENCE else OURS
    seconds = {path: POSITIVE}
    form = {
        "shell": str, "total_s": seconds, "first_token_s": seconds, "tokens_per_s": {path: (_NONE, POSITIVE)},
        "stages_s": {path: _SECONDS}, "peak_memory_bytes": {path: COUNT},
    }  # fmt: skip
    check_form(line, form | ({"end_to_end_ratio": POSITIVE} if case["ops"] == "both" else {}), where)
    _check_stages(case["system"], line["stages_s"][path], where)


def _check_headline(line: Line, where: str) -> None:
    check_form(line, _FORMULA if line["by"] == "formula" else {"headline": str, "by": str, "said": str}, where)


def _check_swept(line: Line, where: str) -> None:
    check_form(line, _SWEPT, where)
    _check_system(line["system"], where)
    for name in ("stages_s", "stages_cpu_s"):
        _check_stages(line["system"], line[name][OURS], where)
    if line["peak_memory_bytes"][OURS] <= line["tokens_bytes"]:
        raise ForeignError(f"{where}: tokens of {line['tokens_bytes']} bytes, more than there was at the peak")


def _check_system(name: str, where: str) -> None:
    if name not in SYSTEMS:
        raise ForeignError(f"{where}: system {shown(name)}: there is {', '.join(SYSTEMS)}")


def _check_stages(system: str, names: Iterable[str], where: str) -> None:
    try:
        for name in names:
            find(system).stage(name)
    except ValueError as error:
        raise ForeignError(f"{where}: {error}") from None


_CHECKS: dict[str, Callable[[Line, str], None]] = {
    OP: _check_op, RUN: _check_run, HEADLINE: _check_headline, SWEPT: _check_swept, GROWTH: lambda line, where: None,
}  # fmt: skip


def check_sweep(runs: Sequence[Line], where: str) -> None:
    """ForeignError unless growth follows from these runs: of one system, of ever more frames, with the same paths and stages."""
    last = runs[-1]
    frames = [run["frames"] for run in runs]
    if any(after < before for before, after in pairwise(frames)) or frames[0] == frames[-1]:
        raise ForeignError(f"{where}: the frames of a sweep do not grow from run to run")
    for run in runs:
        tables = [each[name] for name in ("total_s", "peak_memory_bytes") for each in (run, last)]
        tables += [each["stages_s"][OURS] for each in (run, last)]
        same = all(one.keys() == other.keys() for one, other in zip(tables[::2], tables[1::2], strict=True))
        if not same or ("end_to_end_ratio" in run) != ("end_to_end_ratio" in last):
            raise ForeignError(f"{where}: the runs of a sweep differ in their paths or stages")
        if (run["system"], run["preset"]) != (last["system"], last["preset"]):
            raise ForeignError(
                f"{where}: a sweep of {last['system']} holds a run of {run['system']}, preset {run['preset']}"
            )
