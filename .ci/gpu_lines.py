"""The lines of JSON of a visit: written as soon as something is known, read to see what is left over.

{"step": "plan", "ops": named, "code": {op: digest}}        what follows, up to the next plan, is of this code
{"step": "outcome", "of": a step, "outcome": word}          ok, failed, cut, not reached, not here; the last one holds
{"step": "values", "begun": [[op, backend], ...]}           then a line with "exit" for each that ended
{"step": "tests", "test": name, "ok": true or false}        then a line for each test that ended
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OTHER_ROOM = re.compile(rb'(?:^#include "|longreel\.triton_kernels\.)([a-z_]+)', re.MULTILINE)


class Lines:
    """Appends to a file; what is written outlives the process, and the machine if the file is fetched. A full disk is said, and
    ends nothing: what is printed is there all the same."""

    def __init__(self, path: Path | None, printed: bool = True) -> None:
        """printed: what `said` makes of it, too."""
        self._path, self._printed = path, printed

    def __call__(self, **line: Any) -> None:
        text = json.dumps(line) + "\n"
        if self._printed:
            # whole, among the lines of processes side by side
            sys.stdout.write(f"  {said(line)}\n")
            sys.stdout.flush()
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            print(f"not written: {error}", flush=True)


def said(line: Mapping[str, Any]) -> str:
    """A line as a person reads it."""
    match line:
        case {"step": "roofs", "name": name, "value": value, "unit": unit}:
            return f"{name}: {value / 1e9:,.1f} G{unit}"
        case {"step": "values", "begun": begun}:
            return f"{len(begun)} kernels: {', '.join(f'{op} on {backend}' for op, backend in begun)}"
        case {"step": "values", "op": op, "backend": backend, "case": case, "ok": ok}:
            told = f"refused: {line['refused']}" if "refused" in line else f"{line['seconds']} s" if ok else line["why"]
            return f"{op} on {backend}, {case}: {'right' if ok else 'WRONG'}, {told}"
        case {"step": "values", "op": op, "backend": backend, "exit": status}:
            return f"{op} on {backend}: {'all right' if status == 0 else f'NOT RIGHT, {_ended(status)}'}"
        case {"step": "values", "right": right, "wrong": wrong}:
            listed = ", ".join(f"{op} on {backend}" for op, backend, _ in wrong)
            return f"{right} of {right + len(wrong)} kernels are right" + (f"; not {listed}" if wrong else "")
        case {"step": "compiles", "kernels": count, "seconds": seconds}:
            return f"{line.get('op', 'all, side by side')}: {count} kernels, about {seconds} s"
    return ", ".join(f"{name} {value}" for name, value in line.items() if name != "step")


def _ended(status: int | str) -> str:
    return status if isinstance(status, str) else f"signal {-status}" if status < 0 else f"exit {status}"


def digests(ops: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Of the sources that each op is made of, those that it takes from other ops among them."""
    rooms: dict[str, bytes] = {}
    for place in ("csrc", "triton_kernels", "python/longreel/ops"):
        for path in sorted((root / place).rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh", ".h", ".cpp"):
                name = path.relative_to(root / place).parts[0].removesuffix(".py").removeprefix("_")
                rooms[name] = rooms.get(name, b"") + path.read_bytes()
    others = {room: {name.decode() for name in OTHER_ROOM.findall(text)} & rooms.keys() for room, text in rooms.items()}
    return {op: _digest(op, rooms, others) for op in ops}


def _digest(op: str, rooms: Mapping[str, bytes], others: Mapping[str, set[str]]) -> str:
    wanted = [room for room in rooms if room == op or op.startswith(f"{room}_")]
    for room in wanted:  # grows meanwhile
        wanted += others[room].difference(wanted)
    whole = b"".join(rooms[room] for room in sorted({*wanted, "common", "bindings"} & rooms.keys()))
    return hashlib.sha256(whole).hexdigest()[:16]


@dataclass(frozen=True)
class Done:
    ok: bool
    code: Mapping[str, str]

    def stands(self, now: Mapping[str, str], ops: Collection[str]) -> bool:
        """Done, and of the code of today where it is of `ops`."""
        return self.ok and all(self.code.get(op) == now[op] for op in ops)


@dataclass
class Standing:
    """What became last of every step, kernel's values and test; `ops`: of all visits, empty where one was of every op."""

    ops: list[str] | None = None
    steps: dict[str, Done] = field(default_factory=dict)
    values: dict[tuple[str, str], Done] = field(default_factory=dict)
    tests: dict[str, Done] = field(default_factory=dict)

    def kernels(self, now: Mapping[str, str]) -> list[tuple[str, str]]:
        """(op, backend) of those whose values are to be looked at again."""
        return [(op, name) for (op, name), done in self.values.items() if op in now and not done.stands(now, [op])]

    def passed(self, now: Mapping[str, str]) -> list[str]:
        """Tests that need not be run again."""
        return [name for name, done in self.tests.items() if done.stands(now, [op for op in now if op in name] or now)]


def standing(path: Path) -> Standing:
    found, code = Standing(), {}
    for line in _read(path):
        match line:
            case {"step": "plan", "ops": ops, "code": code}:
                if ops is not None:
                    found.ops = sorted({*ops, *(found.ops or ())}) if ops and found.ops != [] else []
            case {"step": "outcome", "of": step, "outcome": outcome}:
                found.steps[step] = Done(outcome == "ok", code)
            case {"step": "values", "begun": begun}:
                found.values |= {(op, backend): Done(False, code) for op, backend in begun}
            case {"step": "values", "op": op, "backend": backend, "exit": status}:
                found.values[op, backend] = Done(status == 0, code)
            case {"step": "tests", "test": test, "ok": ok}:
                found.tests[test] = Done(ok, code)
    return found


def _read(path: Path) -> Iterator[Any]:
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(text)
        except ValueError:  # the machine went away while it was written
            continue
