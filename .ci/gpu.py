"""`make gpu`: on a machine with a CUDA GPU, with its own python3 and no network: one visit of at most nine minutes.

    python3 .ci/gpu.py [visit | again | tests | bench | e2e | sanitize | ncu ...] [--ops OP,OP] [--budget 540] [--results DIR]

visit (the default): versions, roofs, values with a process for each op and kernel, times at true sizes, three profiles, tests;
what matters most first, and every answer written as soon as it is known, with what became of each step. again: the steps, and of
values and tests those alone, that failed, were cut, were not reached, or are of sources that have changed since. The other parts
run one after another inside the budget, each with a share of what is left. JSON lines and one log land in RESULTS/<card>.
Exit 0 where there is no card; 1 where a part failed or was cut.

The library that was built elsewhere (`make gpu-carry`) is taken where it loads, built where it does not, and done without where
that fails: Triton's kernels need none. Needs torch and pytest; a build nvcc, cmake and ninja; e2e also transformers,
safetensors, and PyAV for video. --device cpu rehearses a visit with the kernels for CPUs.
"""

import argparse
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("visit", "again", "tests", "bench", "e2e", "sanitize", "ncu")
# By path, since the package is not built yet.
LEFT = runpy.run_path(str(ROOT / ".ci/gpu_lines.py"))
TimeLeft = runpy.run_path(str(ROOT / "python/longreel/measure/time_left.py"))["TimeLeft"]
SYSTEMS = tuple(runpy.run_path(str(ROOT / "python/longreel/models/registry.py"))["SYSTEMS"])
DEFAULT = ("visit",)
# Kept free at the end for the table.
RESERVE = 10.0
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
LINES = "visit.jsonl"
PASSED = "passed.txt"
PACKAGE = ROOT / "build/gpu"
# Of a step's limit, for what ends by itself to say so; a limit less this holds the start of torch and a case of 5 seconds.
SPARE = 3.0
# The exit status of a command that ended by itself when its time was spent, with part of its work undone; as timeout's.
SPENT = 124
# Seconds that a visit times an op at most, in this order, and what of the shape called "hour" is not a card's.
TIMES: dict[str, tuple[float, tuple[str, ...]]] = {
    "compress_frames": (30.0, ()),
    "block_sparse_attention": (30.0, ("heads=32", "kv_heads=32", "head_dim=128")),
    "vst_attention": (30.0, ()),
    "qformer_attention": (30.0, ()),
    "adaptive_pool": (15.0, ()),
    "token_scores": (12.0, ()),
    "token_density": (12.0, ()),
    "vst_rotate": (12.0, ()),
    "vst_append_": (12.0, ()),
}
# What torch.compile makes takes longer to make than to measure: after all times, so that it costs none of them.
COMPILED = {"block_sparse_attention": (30.0, TIMES["block_sparse_attention"][1])}
OPS = (*TIMES, "context_attention")  # compress_frames stands for both in what is timed
VALUES = "values"
# Kernels that Triton compiles for the values of an op, counted without a card by `gpu_card.py compiles`, and about how long one
# takes on one core.
COMPILES: Mapping[str, int] = json.loads((ROOT / ".ci/compiles.json").read_text(encoding="utf-8"))
COMPILE_SECONDS = 1.2
PROFILED = ("frames_forward", "block_sparse_forward", "block_sparse_decode")
METRICS = ",".join(
    (
        "gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum", "lts__t_bytes.sum",
        "sm__throughput.avg.pct_of_peak_sustained_elapsed", "sm__warps_active.avg.pct_of_peak_sustained_active",
        "sm__inst_executed_pipe_tensor.sum", "l1tex__data_bank_conflicts_pipe_lsu.sum",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A command of a part: `share` of the time left, at most `most` seconds, is its limit; below `least` seconds it is not
    started."""

    part: str
    name: str
    command: Sequence[str]
    share: float
    least: float = 20.0
    needs: str | None = None  # a program
    most: float = float("inf")
    ops: Sequence[str] = ()  # whose sources it is of
    note: str = ""


@dataclass
class StepResult:
    step: Step
    seconds: float
    verdict: str  # ok, failed, cut, not reached or not here, and why

    @property
    def outcome(self) -> str:
        return self.verdict.partition(":")[0]

    @property
    def failed(self) -> bool:
        return self.outcome in ("failed", "cut")


def steps(parts: Sequence[str], ops: Sequence[str], systems: Sequence[str], results: Path, python: str) -> list[Step]:
    """What the parts run, in order; `visit` and `again` apart."""
    named = [argument for op in ops for argument in ("--op", op)]
    keyword = ["-k", " or ".join(ops)] if ops else []
    tests = [python, "-m", "pytest", "-m", "gpu", "tests/gpu", *keyword, "--durations=5"]
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


def visit(
    ops: Sequence[str],
    results: Path,
    python: str,
    *,
    device: str = "cuda",
    kernels: Sequence[tuple[str, str]] = (),
    value_ops: Sequence[str] | None = None,
    passed: Path | None = None,
) -> list[Step]:
    """The steps of a visit, what matters most first. `kernels`, (op, backend), and `value_ops`, `ops` where nothing narrows
    them: whose values; `passed`: a file of tests that are left out."""
    size = ["--size", "hour" if device == "cuda" else "small"]
    asked = [python, ".ci/gpu_card.py"]
    told = ["--device", device, "--lines", str(results / LINES)]
    only = [argument for pair in kernels for argument in ("--only", *pair)]
    whole = ops if value_ops is None else value_ops
    only += [argument for op in whole for argument in ("--op", op)]
    todo = [
        Step("visit", "versions", [*asked, "versions", *told], 1.0, 5.0, most=15.0),
        Step("visit", "roofs", [*asked, "roofs", *told], 1.0, most=30.0),
        Step(
            "visit",
            VALUES,
            [*asked, "values", *told, *only, "--together", "--until", "{until}"],
            1.0,
            most=90.0,
            note=compiling([*(op for op, _ in kernels), *whole] or OPS) if device == "cuda" else "",
        ),
    ]
    timed = [(op, "quick", f"times of {op}", *limits) for op, limits in TIMES.items()]
    timed += [(op, "compiled", f"compiled peers of {op}", *limits) for op, limits in COMPILED.items()]
    for op, peers, name, most, shape in timed:
        if ops and op not in ops:
            continue
        suite = [python, "-m", "longreel.bench.suite", "--op", op, "--dtype", "bf16", *size, "--device", device]
        suite += ["--peers", peers]
        suite += ["--results", str(results), "--until", "{until}"]
        suite += [argument for number in shape * (device == "cuda") for argument in ("--shape", number)]
        todo.append(Step("visit", name, suite, 1.0, 10.0, most=most, ops=[op]))
    keyword = ["-k", " or ".join(ops)] if ops else []
    if device == "cuda":
        profiler = ["ncu", "--metrics", METRICS, "--launch-count", "1", "--clock-control", "none", "--csv"]
        for kernel in PROFILED:
            file = ["--log-file", str(results / f"{kernel}.csv"), "-k", f"regex:{kernel}"]
            op = "compress_frames" if kernel.startswith("frames") else "block_sparse_attention"
            if not ops or op in ops:
                small = [python, ".ci/cuda_small.py", op, "--true-size"]
                command = [*profiler, *file, *small]
                todo.append(Step("visit", f"profile of {kernel}", command, 1.0, needs="ncu", most=20.0, ops=[op]))
        workers = ["-n", "12", "--dist", "worksteal", "--max-worker-restart", "40", "--timeout", "45"]
        report = ["-rA", "--junitxml", str(results / "tests.xml"), "--lines", str(results / LINES)]
        report += [] if passed is None else ["--passed", str(passed)]
        tests = [python, "-m", "pytest", "tests/gpu/test_kernel_values.py", *workers, *report, *keyword]
        todo.append(Step("visit", "tests", tests, 1.0, most=120.0, ops=ops or OPS))
    return todo


def compile_seconds(ops: Sequence[str], cores: int | None = None) -> float:
    """Until what the values of `ops` run is compiled, an op in a process, side by side."""
    counts = [COMPILES.get(op, 0) for op in ops]
    return COMPILE_SECONDS * max(max(counts, default=0), sum(counts) / (cores or os.cpu_count() or 1))


def compiling(ops: Sequence[str]) -> str:
    count = sum(COMPILES.get(op, 0) for op in {*ops})
    return f"{count} kernels are compiled first, about {compile_seconds(sorted({*ops})):.0f} s; "


def again(ops: Sequence[str], results: Path, python: str, *, code: Mapping[str, str], device: str) -> list[Step]:
    """The steps of a visit that are left, behind the versions that they are of; none where nothing is left."""
    found = LEFT["standing"](results / LINES)
    ops = ops or found.ops or ()
    asked = {op: code[op] for op in ops or OPS}
    passed = results / PASSED
    passed.write_text("".join(f"{name}\n" for name in found.passed(asked)), encoding="utf-8")
    kernels = found.kernels(asked)
    # where no values were begun at all, those of every op
    unseen = [op for op in ops if op not in {op for op, _ in found.values}]
    todo = visit(ops, results, python, device=device, kernels=kernels, value_ops=unseen, passed=passed)
    values_left = bool(kernels or unseen or not found.values)
    left = [
        step
        for step in todo[1:]
        if (
            values_left
            if step.name == VALUES
            else step.name in found.steps and not found.steps[step.name].stands(asked, step.ops)
        )
    ]
    return [todo[0], *left] if left else []


def run_all(
    todo: Sequence[Step],
    *,
    deadline: float,
    run: Callable[[Step, float], int | None],
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = print,
    told: Callable[[StepResult], None] = lambda result: None,
) -> list[StepResult]:
    """Run the steps; `run` returns the exit status, None where the limit stopped it. `told` hears what has become of a step as
    soon as it is known, and until then what it is if nothing more is heard."""
    done, time_left = [], TimeLeft(deadline - RESERVE, clock)
    for step in todo:
        told(StepResult(step, 0.0, "not reached"))
    for step in todo:
        limit = time_left.limit(share=step.share, least=step.least)
        if step.needs is not None and shutil.which(step.needs) is None:
            done.append(StepResult(step, 0.0, f"not here: {step.needs} is not installed"))
        elif limit is None:
            done.append(StepResult(step, 0.0, "not reached: no time left"))
        else:
            told(StepResult(step, 0.0, "cut"))
            limit = min(limit, step.most)
            bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("\n", "")
            say(
                f"{bold}{step.part}: {step.name}{plain} ({step.note}{limit:.0f} s at most, {time_left.seconds:.0f} s left)"
            )
            start = clock()
            status = run(step, limit)
            cut = status in (None, SPENT)
            verdict = "ok" if status == 0 else "cut: out of time" if cut else f"failed: exit {status}"
            done.append(StepResult(step, clock() - start, verdict))
        told(done[-1])
    return done


# What Python says of an interrupt, in two lines a frame.
TRACE = re.compile(
    r'Traceback|  File "| {4}|KeyboardInterrupt|Exception ignored|The above exception|During handling|\s*$'
)
FRAME = re.compile(r'  File "([^"<]*)", line (\d+)')


def runner(log: Path, env: dict[str, str]) -> Callable[[Step, float], int | None]:
    """Runs a step, its output to the terminal and to the log; at its limit SIGINT, so that what is done gets reported."""

    def run(step: Step, limit: float) -> int | None:
        # for what takes its time by itself; `until` on the clock that processes share
        ends = {"{limit}": f"{limit - SPARE:.0f}", "{until}": f"{time.monotonic() + limit - SPARE:.1f}"}
        command = [ends.get(part, part) for part in step.command]
        stopped, at = False, ""
        logged(log, f"\n== {step.part}: {step.name}\n")
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=heeds_stops,
        )  # fmt: skip

        def stop(*_: object) -> None:
            """The whole group: a child that hangs holds the output open when its parent is gone."""
            nonlocal stopped
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL if stopped else signal.SIGINT)
            stopped = True
            signal.alarm(10)

        before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(max(1, int(limit)))
        try:
            assert process.stdout is not None
            for line in process.stdout:
                logged(log, line)
                if not (stopped and TRACE.match(line)):
                    print(line, end="", flush=True)
                elif frame := FRAME.match(line):
                    at = f"{frame[1]}:{frame[2]}"
            status = process.wait()
            if at:
                print(f"stopped at {at} (all of it in {log.name})", flush=True)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        return None if stopped else status

    return run


def heeds_stops() -> None:
    """Behind a shell's `&` SIGINT is ignored, and a child would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def logged(log: Path, text: str) -> None:
    """A full disk ends nothing: what is printed is there all the same."""
    with suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(text)


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


def arch() -> str:
    """What is compiled for the first card: on Hopper with the instructions that only it has ("native" leaves them out)."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    capability = subprocess.run(query, capture_output=True, text=True).stdout.split()[0]
    return capability + "a" * (capability == "9.0")


def plain_package(into: Path = PACKAGE) -> None:
    """Today's Python files beside a library that was carried here, or without one."""
    skipped = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "python/longreel", into / "longreel", ignore=skipped, dirs_exist_ok=True)
    shutil.copytree(ROOT / "triton_kernels", into / "longreel/triton_kernels", ignore=skipped, dirs_exist_ok=True)


def package(name: str, run: Callable[[Step, float], int | None], deadline: float) -> list[StepResult]:
    """The carried library where it loads, else one built here; where that fails too, the kernels that need none."""
    carried = (PACKAGE / "longreel/_ops.so").exists()
    plain_package()
    loads = "import sys; from longreel import _native; print(_native.OPS_REFUSAL); sys.exit(_native.OPS_REFUSAL is not None)"
    load = Step("build", "the carried library", [sys.executable, "-c", loads], 1.0, most=30.0)
    tried = run_all([load] * carried, deadline=deadline, run=run)
    if tried and not tried[-1].failed:
        return tried
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(PACKAGE)]
    return tried + run_all([Step("build", f"for {name}", command, 1.0, most=120.0)], deadline=deadline, run=run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--ops", default="", help="only these, separated by commas")
    parser.add_argument("--systems", default="", help=f"e2e: only these, separated by commas ({', '.join(SYSTEMS)})")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a visit is rehearsed")
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    ops, systems = ([name for name in given.split(",") if name] for given in (args.ops, args.systems))
    for system in set(systems) - set(SYSTEMS):
        parser.error(f"no system {system}: there are {', '.join(SYSTEMS)}")
    deadline = time.monotonic() + args.budget
    name = card() if args.device == "cuda" else "rehearsal"
    if name is None:
        print("make gpu: no CUDA GPU on this machine; nothing to do")
        return 0
    results = (args.results / name).resolve()
    results.mkdir(parents=True, exist_ok=True)
    log = results / "gpu.log"
    log.write_text("", encoding="utf-8")
    env = {**os.environ, "LONGREEL_CUDA": "1", "PYTHONUNBUFFERED": "1"}
    if args.device == "cuda":
        env.setdefault("TORCH_CUDA_ARCH_LIST", arch())
    run = runner(log, env)
    if args.device == "cuda":
        env["PYTHONPATH"] = os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
        outcomes = package(name, run, deadline)
    else:
        outcomes = []
    lines, code = LEFT["Lines"](results / LINES, printed=False), LEFT["digests"](OPS)

    def in_lines(result: StepResult) -> None:
        lines(step="outcome", of=result.step.name, outcome=result.outcome, seconds=round(result.seconds, 1))

    for part in args.parts or DEFAULT:
        todo = []
        if part == "visit":
            todo = visit(ops, results, sys.executable, device=args.device)
            lines(step="plan", ops=ops, code=code)
        elif part == "again":
            if not (results / LINES).exists():
                parser.error(f"again: no visit has left {results / LINES}")
            todo = again(ops, results, sys.executable, code=code, device=args.device)
            print(f"again: {', '.join(step.name for step in todo) or 'nothing is left'}")
            lines(step="plan", ops=None, code=code)
        else:
            todo = steps([part], ops, systems or SYSTEMS, results, sys.executable)
        told = in_lines if part in ("visit", "again") else lambda result: None
        outcomes += run_all(todo, deadline=deadline, run=run, told=told)
    summary = table(outcomes)
    logged(log, "\n" + summary + "\n")
    print(f"\n{summary}\nresults: {results}")
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
