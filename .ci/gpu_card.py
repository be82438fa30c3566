"""What a short visit to a card asks of it, a line of JSON for every answer, written and flushed as soon as it is known.

    python3 .ci/gpu_card.py versions|roofs|values|compiles --lines FILE [--device cuda|cpu] [--only OP BACKEND]

values: every kernel on its cases for cards, in bfloat16, forward and backward under the error budget, three times the same
bits; one process an op and backend, all at once, so that a fault costs one and what they compile is compiled side by side.
compiles: how many kernels Triton would compile for each of those, counted without a card, and about how long that takes, side by
side on the cores that are here; --write: into .ci/compiles.json, which a visit is planned with.
"""

import argparse
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from longreel.ops.registry import OPS
from longreel.testing import check
from longreel.testing.cases import corners
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Variant, low_level, prepare, run

ROOT = Path(__file__).resolve().parents[1]
GPU = runpy.run_path(str(ROOT / ".ci/gpu.py"))
Lines = runpy.run_path(str(ROOT / ".ci/gpu_lines.py"))["Lines"]
LIMIT = 90.0
DTYPE = torch.bfloat16


def kernels(device: str) -> list[Variant]:
    """Every kernel of ours for `device`, first those whose values were never right on a card."""
    found = [
        Variant(op, row.backend, device)
        for op, spec in OPS.items()
        for row in spec.rows
        if device in row.devices and row.kind == "kernel" and DTYPE in row.dtypes
    ]
    return sorted(found, key=lambda variant: variant.row.proven)


def versions(lines: Lines, device: str) -> None:
    found: dict[str, Any] = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError as error:
        found["triton"] = str(error)
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "card": properties.name,
            "l2": properties.L2_cache_size,
            "shared": properties.shared_memory_per_block_optin,
            "multiprocessors": properties.multi_processor_count,
        }
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
        found["smi"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    lines(step="versions", **found)


def roofs(lines: Lines, device: str) -> None:
    """Copy and read of memory, reads that stay in L2, a square product, the best causal attention there is."""
    on_card = device == "cuda"
    for name, amount, unit, make in _probes(device):
        lines(step="roofs", name=name, unit=unit, **_rate(amount, make, on_card))


def _rate(amount: float, make: Callable[[], Callable[[], Any]], on_card: bool) -> dict[str, Any]:
    try:
        return {"value": amount / _seconds(make(), on_card)}
    except Exception as error:
        return {"failed": _one_line(error)}


def _probes(device: str) -> Iterator[tuple[str, float, str, Callable[[], Callable[[], Any]]]]:
    big, side, rows, heads = (2**30, 8192, (8192, 32768), 32) if device == "cuda" else (2**24, 256, (256,), 2)

    def memory(size: int, copied: bool) -> Callable[[], Any]:
        source = torch.ones(size // 4, device=device)
        target = torch.empty_like(source) if copied else source
        return (lambda: target.copy_(source)) if copied else source.sum

    yield "copy", 2 * big, "B/s", lambda: memory(big, True)
    yield "read", big, "B/s", lambda: memory(big, False)
    for mebibytes in (20, 40):
        yield f"read again of {mebibytes} MiB", mebibytes << 20, "B/s", lambda m=mebibytes: memory(m << 20, False)  # type: ignore[misc]

    def product() -> Callable[[], Any]:
        a, b = (torch.randn(side, side, device=device, dtype=DTYPE) for _ in range(2))
        return lambda: a @ b

    yield f"product of side {side}", 2 * side**3, "FLOP/s", product

    def causal(count: int, backend: str) -> Callable[[], Any]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = (torch.randn(1, heads, count, 128, device=device, dtype=DTYPE) for _ in range(3))

        def call() -> Any:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

        return call

    for count in rows:
        for backend in ("CUDNN_ATTENTION", "FLASH_ATTENTION") if device == "cuda" else ("MATH",):
            flops = 4 * 128 * heads * count * (count + 1) / 2
            yield f"{backend} causal {count}", flops, "FLOP/s", lambda c=count, b=backend: causal(c, b)  # type: ignore[misc]


def _seconds(call: Callable[[], Any], on_card: bool, repeats: int = 9) -> float:
    """Median of calls in a row, without emptying a cache: what is asked is the rate."""
    taken = []
    call()
    for _ in range(repeats):
        if on_card:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(1_000_000)
            start.record()
            for _ in range(5):
                call()
            end.record()
            torch.cuda.synchronize()
            taken.append(start.elapsed_time(end) / 5e3)
        else:
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
    return sorted(taken)[repeats // 2]


def values(lines: Lines, variant: Variant, cases: int | None = None) -> bool:
    """Every case of one kernel; whether all were right."""
    right = True
    for case in cases_of(variant.op, variant.device)[:cases]:
        begin = time.perf_counter()
        line = {"step": "values", "op": variant.op, "backend": variant.backend, "case": case.name}
        try:
            refused = _judge(variant, case)
            given = {} if refused is None else {"refused": refused}
            lines(**line, ok=True, **given, seconds=round(time.perf_counter() - begin, 2))
        except Exception as error:
            right = False
            lines(**line, ok=False, why=_one_line(error))
            if "CUDA" in str(error):
                break  # the context is lost, and with it every later case of this process
    return right


def cases_of(op: str, device: str) -> list[Any]:
    room = corners(op)
    return list(room.gpu_cases()) if device == "cuda" else [case for case in room.cases() if case.fast][:3]


def _judge(variant: Variant, case: Any) -> str | None:
    """Raises where a value is wrong; why the kernel does not take the case, or this card, if so."""
    spec, inputs = variant.spec, prepare(case.inputs(), DTYPE, variant.device)
    refused = spec.request(spec.lowered(**inputs)).objection(variant.backend)
    if refused is not None:
        return refused
    wanted = tuple(name for name in spec.differentiable if name in inputs) if spec.backward is not None else ()
    got = run(variant.op, low_level(variant), inputs, wanted).everything
    again = [run(variant.op, low_level(variant), inputs, wanted).everything for _ in range(2)]
    wide = prepare(inputs, torch.float64, variant.device)
    truth = run(variant.op, spec.reference, wide, wanted).everything
    plain = run(variant.op, lambda *args: spec.reference(*args, same_dtype=True), inputs, wanted).everything
    for name, value in got.items():
        check(name, value, truth[name], plain[name], DTYPE)
        if not all(same_bits(value, other[name]) for other in again):
            raise AssertionError(f"{name}: other bits in another run")
    return None


def all_values(lines: Lines, chosen: Sequence[Variant], until: float, path: Path | None) -> bool:
    """What no card has passed by itself first, in a third of the time, since it may hang the card; then the others. `until` on
    `time.monotonic`."""
    right = True
    lines(step="values", begun=[(variant.op, variant.backend) for variant in chosen])
    for proven, share in ((False, 1 / 3), (True, 1.0)):
        some = [variant for variant in chosen if variant.row.proven == proven]
        right &= side_by_side(lines, some, share * (until - time.monotonic()), path)
    return right


def side_by_side(lines: Lines, chosen: Sequence[Variant], limit: float, path: Path | None) -> bool:
    """A process for each of them, each with `limit` seconds; what one leaves unfinished is said of it, last all that failed."""
    begun = time.monotonic()
    given = [] if path is None else ["--lines", str(path)]
    running = {}
    for variant in chosen:
        only = ["--device", variant.device, "--only", variant.op, variant.backend]
        running[variant] = subprocess.Popen([sys.executable, __file__, "values", *given, *only], cwd=ROOT)
    wrong: list[tuple[str, str, int | str]] = []
    while running:
        late = time.monotonic() > begun + limit
        for variant, process in list(running.items()):
            status: int | str | None = process.poll()
            if status is None and late:
                process.kill()
                status = f"stopped after {limit:.0f} s"
            if status is None:
                continue
            del running[variant]
            if status != 0:
                wrong.append((variant.op, variant.backend, status))
            lines(step="values", op=variant.op, backend=variant.backend, ok=status == 0, exit=status)
        time.sleep(0.05)
    if chosen:
        lines(step="values", right=len(chosen) - len(wrong), wrong=wrong)
    return not wrong


def compiles(op: str) -> int:
    """Kernels that Triton compiles for the values of `op`: launches recorded, none made."""
    from longreel.triton_kernels.common.aot import recorded
    from longreel.triton_kernels.common.card import LARGE_SHARED, Card

    variant = Variant(op, "triton", "cpu")
    with recorded(Card(60 << 20, LARGE_SHARED, 132, wgmma=True)) as launches:
        for case in corners(op).gpu_cases():
            inputs = prepare(case.inputs(1), torch.float16, "cpu")
            wanted = tuple(name for name in variant.spec.differentiable if name in inputs)
            run(op, low_level(variant), inputs, wanted if variant.spec.backward is not None else ())
    return len({repr(launch) for launch in launches})


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("versions", "roofs", "values", "compiles"))
    parser.add_argument("--lines", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", nargs=2, metavar=("OP", "BACKEND"), action="append")
    parser.add_argument("--op", action="append", help="values: every kernel of these alone")
    parser.add_argument("--until", type=float, help=f"on time.monotonic(); default {LIMIT:.0f} s from now")
    parser.add_argument("--write", action="store_true", help="compiles: make them what a visit is planned with")
    parser.add_argument("--together", action="store_true", help="values: also where few are named, a process for each")
    args = parser.parse_args()
    lines = Lines(args.lines)
    if args.job == "values":
        only, every = [tuple(pair) for pair in args.only or ()], not args.only and not args.op
        chosen = [
            variant
            for variant in kernels(args.device)
            if every or variant.op in (args.op or ()) or (variant.op, variant.backend) in only
        ]
        if len(chosen) == 1 and not args.together:
            return int(not values(lines, chosen[0]))
        return int(not all_values(lines, chosen, args.until or time.monotonic() + LIMIT, args.lines))
    if args.job == "compiles":
        counts = {op: compiles(op) for op in sorted(v.op for v in kernels("cuda") if v.backend == "triton")}
        for op, count in counts.items():
            lines(step="compiles", op=op, kernels=count, seconds=round(count * GPU["COMPILE_SECONDS"], 1))
        lines(step="compiles", kernels=sum(counts.values()), seconds=round(GPU["compile_seconds"](list(counts)), 1))
        if args.write:
            (ROOT / ".ci/compiles.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    else:
        {"versions": versions, "roofs": roofs}[args.job](lines, args.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
