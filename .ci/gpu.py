"""`make gpu`: on a machine with a CUDA GPU, with its own python3 and no network: builds for that card, then runs the parts.

    python3 .ci/gpu.py [tests] [bench] [e2e] [sanitize] [ncu] [--ops OP,OP] [--systems SYSTEM] [--budget 540] [--results DIR]

Parts (default: tests, bench) run one after another inside the budget, each with a share of what is left. JSON lines and one
log land in RESULTS/<card>. Exit 0 where there is no card; 1 where a part failed. Needs torch, nvcc, cmake, ninja and
pytest; e2e also transformers, safetensors, and PyAV for video.
"""

import argparse
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tests", "bench", "e2e", "sanitize", "ncu")
# By path, since the package is not built yet.
TimeLeft = runpy.run_path(str(ROOT / "python/longreel/measure/time_left.py"))["TimeLeft"]
SYSTEMS = tuple(runpy.run_path(str(ROOT / "python/longreel/models/registry.py"))["SYSTEMS"])
DEFAULT = ("tests", "bench")
# Kept free at the end for the table.
RESERVE = 10.0
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


@dataclass(frozen=True)
class Step:
    """A command of a part: `share` of the time left is its limit, and below `least` seconds it is not started."""

    part: str
    name: str
    command: Sequence[str]
    share: float
    least: float = 20.0
    needs: str | None = None  # a program


@dataclass
class StepResult:
    step: Step
    seconds: float
    verdict: str

    @property
    def failed(self) -> bool:
        return self.verdict not in ("ok", "not run: no time left") and not self.verdict.startswith("not here")


def steps(parts: Sequence[str], ops: Sequence[str], systems: Sequence[str], results: Path, python: str) -> list[Step]:
    """What the parts run, in order."""
    named = [argument for op in ops for argument in ("--op", op)]
    keyword = ["-k", " or ".join(ops)] if ops else []
    tests = [python, "-m", "pytest", "-m", "gpu", "tests", *keyword, "--durations=5"]
    suite = [python, "-m", "longreel.bench.suite", *named, "--results", str(results), "--budget", "{limit}"]
    sanitizer = ["compute-sanitizer", "--error-exitcode", "1", "--print-limit", "5"]
    profiler = ["ncu", "--set", "full", "--launch-count", "40", "--csv", "--page", "details"]
    hour = [python, "benchmarks/end_to_end.py", "--results", str(results), "--budget", "{limit}", "--system"]
    small = [python, ".ci/cuda_small.py", *ops]
    listed = {
        "tests": [Step("tests", "pytest -m gpu", tests, 0.5)],
        "bench": [Step("bench", "op benchmarks", suite, 0.9)],
        "e2e": [
            Step("e2e", system, [*hour, system], 1 / (len(systems) - i), least=60.0) for i, system in enumerate(systems)
        ],
        "sanitize": [
            Step(
                "sanitize", tool, [*sanitizer, "--tool", tool, *small], 1 / (len(TOOLS) - i), needs="compute-sanitizer"
            )
            for i, tool in enumerate(TOOLS)
        ],
        "ncu": [
            Step(
                "ncu",
                "profile",
                [*profiler, "--log-file", str(results / "ncu.csv"), *small, "--true-size"],
                1.0,
                needs="ncu",
            )
        ],
    }
    return [step for part in parts for step in listed[part]]


def run_all(
    todo: Sequence[Step],
    *,
    deadline: float,
    run: Callable[[Step, float], int | None],
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = print,
) -> list[StepResult]:
    """Run the steps; `run` returns the exit status, None where the limit stopped it."""
    done, time_left = [], TimeLeft(deadline - RESERVE, clock)
    for step in todo:
        limit = time_left.limit(share=step.share, least=step.least)
        if step.needs is not None and shutil.which(step.needs) is None:
            done.append(StepResult(step, 0.0, f"not here: {step.needs} is not installed"))
        elif limit is None:
            done.append(StepResult(step, 0.0, "not run: no time left"))
        else:
            say(f"\033[1m{step.part}: {step.name}\033[0m ({limit:.0f} s at most, {time_left.seconds:.0f} s left)")
            start = clock()
            status = run(step, limit)
            verdict = "ok" if status == 0 else "stopped: out of time" if status is None else f"failed: exit {status}"
            done.append(StepResult(step, clock() - start, verdict))
    return done


def runner(log: Path, env: dict[str, str]) -> Callable[[Step, float], int | None]:
    """Runs a step, its output to the terminal and to the log; at its limit SIGINT, so that what is done gets reported."""

    def run(step: Step, limit: float) -> int | None:
        command = [part.replace("{limit}", str(int(limit - 5))) for part in step.command]
        stopped = False
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n== {step.part}: {step.name}\n")
            process = subprocess.Popen(
                command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
            )  # fmt: skip

            def stop(*_: object) -> None:
                nonlocal stopped
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL if stopped else signal.SIGINT)
                    stopped = True
                    signal.alarm(10)

            before = signal.signal(signal.SIGALRM, stop)
            signal.alarm(max(1, int(limit)))
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    file.write(line)
                    print(line, end="", flush=True)
                status = process.wait()
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, before)
        return None if stopped else status

    return run


def table(outcomes: Sequence[StepResult]) -> str:
    rows = [("part", "step", "seconds", "outcome")]
    rows += [(o.step.part, o.step.name, f"{o.seconds:.0f}", o.verdict) for o in outcomes]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def card() -> str | None:
    """The card's name as a folder name; None without a card. Exits where torch cannot use it."""
    smi = shutil.which("nvidia-smi")
    listed = subprocess.run([smi, "-L"], capture_output=True, text=True).stdout if smi else ""
    if not listed.startswith("GPU"):
        return None
    try:
        import torch

        if torch.cuda.is_available():
            return re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name()).strip("-")
    except ImportError:
        pass
    sys.exit(
        f"make gpu: a GPU is here, but {sys.executable} has no torch that can use it (PYTHON=... names another one)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--ops", default="", help="only these, separated by commas")
    parser.add_argument("--systems", default="", help=f"e2e: only these, separated by commas ({', '.join(SYSTEMS)})")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    ops, systems = ([name for name in given.split(",") if name] for given in (args.ops, args.systems))
    for system in set(systems) - set(SYSTEMS):
        parser.error(f"no system {system}: there are {', '.join(SYSTEMS)}")
    deadline = time.monotonic() + args.budget
    name = card()
    if name is None:
        print("make gpu: no CUDA GPU on this machine; nothing to do")
        return 0
    results = (args.results / name).resolve()
    results.mkdir(parents=True, exist_ok=True)
    log = results / "gpu.log"
    log.write_text("", encoding="utf-8")
    env = {**os.environ, "LONGREEL_CUDA": "1", "PYTHONUNBUFFERED": "1"}
    build = Step("build", f"for {name}", [sys.executable, "setup.py", "-q", "build", "--build-lib", "build/gpu"], 1.0)
    outcomes = run_all([build], deadline=deadline, run=runner(log, env))
    if not outcomes[0].failed:
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "build/gpu"), *filter(None, [os.environ.get("PYTHONPATH")])])
        todo = steps(args.parts or DEFAULT, ops, systems or SYSTEMS, results, sys.executable)
        outcomes += run_all(todo, deadline=deadline, run=runner(log, env))
    summary = table(outcomes)
    with log.open("a", encoding="utf-8") as file:
        file.write("\n" + summary + "\n")
    print(f"\n{summary}\nresults: {results}")
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
