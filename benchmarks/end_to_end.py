"""An hour at true size through a whole system, inside a time budget: `make gpu-e2e`.

    python benchmarks/end_to_end.py [--system NAME] [--results DIR] [--budget 540] [--preset 7b] [--device cuda]

Every run is a `longreel run` in a process of its own, with random weights: from features and from video, on the card as it is and
under caps of its memory, ours and the reference path, and the number of frames up to which the reference path fits. Lines land in
DIR/end_to_end.jsonl as soon as they are there; what did not fit, or was not reached, is named in the table.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from end_to_end_inputs import no_video, noise_features, video

from longreel.bench.tables import seconds, size, text_table
from longreel.cli.console import NO_ROOM
from longreel.files.output import append_line
from longreel.measure.machine import describe
from longreel.measure.time_left import TimeLeft
from longreel.models.registry import SYSTEMS, find

HOUR = 3600
CAPS = (24.0, 80.0)
# A run is not begun with less time than this; measured runs say what they need beyond it.
LEAST = 25.0
# Where the search for the limit begins of a reference path that needs all frames at once: its memory may grow with their square.
START = 64
ANSWER = 64
OK, FULL, LATE, CUT = "ok", "does not fit", "not run: no time left", "not finished: out of time"

Line = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One run. input: "features" or "video"; ops: "longreel", "reference", or "both", which checks one against the other.

    at_once: the reference path takes all frames in one batch, as the released code does.
    """

    system: str
    preset: str
    input: str
    ops: str
    memory_cap_gib: float | None
    frames: int
    at_once: bool = False

    def options(self) -> list[str]:
        """Of `longreel run`."""
        given = ["--system", self.system, "--preset", self.preset, "--count", str(self.frames)]
        given += ["--answer-tokens", str(ANSWER)]
        system = find(self.system)
        given += [*system.long, *(system.long_video if self.input == "video" else ())]
        given += ["--compare"] if self.ops == "both" else ["--ops", self.ops]
        given += [] if self.memory_cap_gib is None else ["--memory-cap", f"{self.memory_cap_gib:g}"]
        return given + (["--chunk", str(self.frames)] if self.at_once else [])


@dataclass(frozen=True)
class TrialResult:
    """What became of a case; `line` is the run's own record where it went through."""

    case: Trial
    outcome: str
    wall: float
    line: Line | None = None

    @property
    def failed(self) -> bool:
        return not (self.outcome in (OK, FULL) or self.outcome.startswith("not "))


Runner = Callable[[Trial, float], TrialResult]


class Plan:
    """Runs cases while there is time, and keeps what became of them."""

    def __init__(self, run: Runner, time_left: TimeLeft, say: Callable[[TrialResult], None]) -> None:
        self._run, self._time, self._say = run, time_left, say
        self.done: list[TrialResult] = []

    def add(self, case: Trial) -> TrialResult:
        """Run `case` if it has not been run, or note that no time was left for it."""
        for outcome in self.done:
            if outcome.case == case:
                return outcome
        needed = max(LEAST, *(1.1 * other.wall for other in self.done if _alike(other, case)), 0.0)
        limit = self._time.limit(least=needed)
        outcome = TrialResult(case, LATE, 0.0) if limit is None else self._run(case, limit)
        self.done.append(outcome)
        self._say(outcome)
        return outcome

    def note(self, case: Trial, why: str) -> None:
        self.done.append(TrialResult(case, why, 0.0))
        self._say(self.done[-1])

    def reach(self, case: Trial) -> None:
        """`case` at the most frames for which the time left is enough, by halving."""
        like = [other for other in self.done if other.outcome == OK and _alike(other, replace(case, frames=0))]
        if like and like[-1].line is not None:
            last = like[-1]
            each = sum(last.line["stages_s"][_path(last.case)].values()) / last.case.frames
            start = last.wall - each * last.case.frames
            while case.frames >= HOUR // 8 and 1.1 * (start + each * case.frames) > self._time.seconds:
                case = replace(case, frames=case.frames // 2)
        self.add(case)

    def limit(self, case: Trial, most: int) -> None:
        """The frames that fit: doubling and halving from `case.frames`, then once between what fits and what does not."""
        fits, full, at = 0, most + 1, min(case.frames, most)
        while fits < at < full:
            outcome = self.add(replace(case, frames=at)).outcome
            if outcome not in (OK, FULL):
                return
            between = fits > 0 and full <= most
            fits, full = (at, full) if outcome == OK else (fits, at)
            if between:
                return
            at = (fits + full) // 2 if fits and full <= most else min(2 * at, most) if outcome == OK else at // 2


def _alike(other: TrialResult, case: Trial) -> bool:
    """Whether a run says how long `case` takes at least: the same path, of no more frames (0: of any number)."""
    own, same = other.case, ("system", "preset", "ops")
    return all(getattr(own, name) == getattr(case, name) for name in same) and (
        other.outcome == OK and (case.frames == 0 or own.frames <= case.frames)
    )


def _path(case: Trial) -> str:
    return "reference" if case.ops == "reference" else "longreel"


def measure(plan: Plan, system: str, preset: str, frames: int, caps: tuple[float, ...], card: float = math.inf) -> None:
    """The runs of one system, the ones that matter most first. caps, card: GiB that a run may take, and that there are."""
    facts = find(system)
    whole = Trial(system, preset, "features", "longreel", None, frames)
    reference = replace(whole, ops="reference")
    at_once = replace(reference, frames=frames if facts.streams else min(frames, START), at_once=True)
    plan.add(whole)
    if facts.streams:
        plan.add(reference)
    else:
        plan.add(replace(whole, frames=at_once.frames))
        plan.limit(at_once, frames)
    plan.add(replace(whole, ops="both", frames=min(frames, facts.comparable_frames)))
    why = no_video()
    if why is None:
        plan.reach(replace(whole, input="video"))
    else:
        plan.note(replace(whole, input="video"), why)
    for cap in caps:
        if cap > card:
            plan.note(replace(whole, memory_cap_gib=cap), f"not run: the card has {card:.1f} GiB")
            continue
        plan.reach(replace(whole, memory_cap_gib=cap))
        plan.limit(replace(at_once, memory_cap_gib=cap), frames)
    if facts.streams:
        plan.limit(at_once, frames)


class Processes:
    """Runs a case as `longreel run` on this machine; its inputs are made when they are first needed."""

    def __init__(self, folder: Path, results: Path, device: str, frames: int) -> None:
        self._folder, self._results, self._device, self._frames = folder, results, device, frames
        self._inputs: dict[tuple[str, ...], Path] = {}
        self._machine: Line | None = None

    def __call__(self, case: Trial, limit: float) -> TrialResult:
        start = time.monotonic()
        lines = self._folder / "run.jsonl"
        lines.unlink(missing_ok=True)
        words = ["run", str(self._input(case)), *case.options(), "--device", self._device]
        command = [sys.executable, "-c", "from longreel.cli.main import main; main()", *words, "--json", str(lines)]
        limit -= time.monotonic() - start
        print(f"\033[2m{' '.join(case.options())}: {case.input}, {max(limit, 0):.0f} s left\033[0m", flush=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=max(limit, 1.0))
        except subprocess.TimeoutExpired:
            return TrialResult(case, CUT, time.monotonic() - start)
        wall = time.monotonic() - start
        said = done.stderr.strip().splitlines()
        if done.returncode == NO_ROOM:
            outcome = TrialResult(case, FULL, wall)
        elif done.returncode:
            print(done.stdout, done.stderr, sep="\n", flush=True)
            return TrialResult(case, f"failed: {said[-1] if said else f'exit {done.returncode}'}", wall)
        else:
            outcome = TrialResult(case, OK, wall, json.loads(lines.read_text().splitlines()[-1]))
        self._write(outcome, shlex.join(["longreel", *words]))
        return outcome

    def _input(self, case: Trial) -> Path:
        key = (case.input, case.system) if case.input == "features" else (case.input,)
        if key not in self._inputs:
            made = (
                noise_features(self._folder, case.system, case.preset, self._frames, self._device)
                if case.input == "features"
                else video(self._folder, self._frames)
            )
            self._inputs[key] = made
        return self._inputs[key]

    def _write(self, outcome: TrialResult, command: str) -> None:
        if self._machine is None:
            self._machine = describe(torch.device(self._device))
        line = self._machine | (outcome.line or {})
        line |= {"case": asdict(outcome.case), "outcome": outcome.outcome, "wall_s": outcome.wall}
        self._results.mkdir(parents=True, exist_ok=True)
        line |= {"shell": command.replace(f"{self._folder}/", "")}
        append_line(self._results / "end_to_end.jsonl", json.dumps(line))


HEAD = ["system", "input", "card", "path", "frames", "total", "first token", "tokens/s", "peak", "outcome"]


def cells(outcome: TrialResult) -> list[str]:
    """A row of the table at the end."""
    case, line = outcome.case, outcome.line
    card = "whole" if case.memory_cap_gib is None else f"{case.memory_cap_gib:g} GiB"
    head = [case.system, case.input, card, case.ops + " at once" * case.at_once, f"{case.frames:,}"]
    if line is None:
        return [*head, *["–"] * 4, "failed" if outcome.failed else outcome.outcome]
    path = _path(case)
    first, rate = line["first_token_s"][path], line["tokens_per_s"][path]
    said = f"same numbers, {line['end_to_end_ratio']:.2f}x" if case.ops == "both" else OK
    return [
        *head, seconds(line["total_s"][path]), seconds(first), "–" if rate is None else f"{rate:.0f}",
        size(line["peak_memory_bytes"][path]), said,
    ]  # fmt: skip


def shares(outcome: TrialResult) -> str | None:
    """Where the time of a run went."""
    if outcome.line is None:
        return None
    stages = outcome.line["stages_s"][_path(outcome.case)]
    total = sum(stages.values())
    return "  " + ", ".join(f"{name} {spent / total:.0%}" for name, spent in stages.items())


def say(outcome: TrialResult) -> None:
    print("  ".join(cells(outcome)) + f"  ({outcome.wall:.0f} s)", flush=True)
    if shares(outcome):
        print(shares(outcome), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=SYSTEMS, action="append", help="default: all")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/here"), help="folder of the results")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, default=HOUR, help="frames of the input, one a second")
    args = parser.parse_args()
    time_left, systems = TimeLeft.of(args.budget), args.system or list(SYSTEMS)
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print("end to end: no CUDA GPU on this machine; nothing to do")
        return 0
    caps, card = (CAPS, torch.cuda.get_device_properties(0).total_memory / 2**30) if on_gpu else ((), math.inf)
    done: list[TrialResult] = []
    with tempfile.TemporaryDirectory() as folder:
        run = Processes(Path(folder), args.results, args.device, args.frames)
        for system, part in zip(systems, time_left.shared(len(systems)), strict=True):
            plan = Plan(run, part, say)
            measure(plan, system, args.preset, args.frames, caps, card)
            done += plan.done
    print("\n" + text_table(HEAD, [cells(outcome) for outcome in done]))
    return int(any(outcome.failed for outcome in done))


if __name__ == "__main__":
    sys.exit(main())
