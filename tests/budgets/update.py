"""Registers, spills and shared memory of every GPU kernel, from the compiled code; no GPU is needed.

    python tests/budgets/update.py triton          print the figures as JSON
    python tests/budgets/update.py cuda --write    make them the budget: tests/budgets/cuda.json
    python tests/budgets/update.py triton --op compress_frames --loops    of sm_90: what every loop with products issues a thread

Of Triton the budget is that of the version that is pinned, and for the oldest that is allowed it has one of its own
(triton-3.6.json; `make matrix ARGS=--only=triton`): with that version on PYTHONPATH the same command writes it.

Figures are {kernel: {architecture: {"registers", "spill_bytes", "shared_bytes"}}}; of sm_90 also "wgmma", products of warp
groups, and "ahead", reads under way while a step of a loop with products waits for its own, in the loop that has least.
"""

import argparse
import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import triton
from budget_path import budget_path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
TRITON_ARCHS = {"sm_80": 80, "sm_90": 90, "sm_100": 100}
# What Hopper alone has: rows brought by a copy engine, and the barrier of a cluster.
HOPPER = {"bulk_copies": "UBLKCP", "cluster_barriers": "UCGABAR"}
# Copies by the copy engine and by threads, barriers that wait for them, registers given from warps to others.
WARP_SPECIALISED = {"engine_copies": "UTMALDG", "copies": "LDGSTS", "arrivals": "SYNCS", "register_moves": "USETMAXREG"}
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")

Figures = dict[str, dict[str, dict[str, int]]]


def resources(text: str) -> dict[str, int]:
    registers, stack, shared, local = map(int, RESOURCES.search(text).groups())
    return {"registers": registers, "spill_bytes": stack + local, "shared_bytes": shared}


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@functools.cache
def triton_launches(op: str) -> list[Any]:
    if not (HERE / f"{op}.py").exists():
        raise FileNotFoundError(
            f"triton_kernels has {op}, and tests/budgets/{op}.py, which lists its launches, is missing"
        )
    return list(importlib.import_module(op).launches())


def triton_figure(op: str, index: int, arch: str) -> tuple[str, str, dict[str, int]]:
    launch = triton_launches(op)[index]
    compiled = launch.compile(TRITON_ARCHS[arch])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        figure = resources(run(TOOLS / "cuobjdump", "--dump-resource-usage", binary.name))
        if arch == "sm_90":
            code = run(TOOLS / "nvdisasm", "-c", binary.name)
            figure["wgmma"] = code.count("HGMMA")
            if launch.archs == (90,):
                figure |= {what: code.count(word) for what, word in WARP_SPECIALISED.items()}
            elif waits := loop_waits(compiled.asm["ttgir"]):
                figure["ahead"] = min(waits)
    # the dynamic shared memory is the launch's, not the binary's
    return launch.name, arch, figure | {"shared_bytes": compiled.metadata.shared}


def loop_waits(ttgir: str) -> list[int]:
    """Of every loop with products: groups of reads that may be under way while a step waits for its own."""
    loops: list[tuple[int, bool, list[int]]] = []
    found = []
    for line in ttgir.splitlines():
        indent = len(line) - len(line.lstrip())
        if re.search(r"scf\.(for|while) ", line):
            loops.append((indent, False, []))
        elif loops and line.lstrip().startswith("}") and indent == loops[-1][0]:
            _, product, waits = loops.pop()
            found += [min(waits, default=0)] * product
        elif loops:
            at, product, waits = loops[-1]
            waits += [int(wait) for wait in re.findall(r"async_wait.*?num = (\d+)", line)]
            loops[-1] = at, product or re.search(r"tt\.dot |warp_group_dot ", line) is not None, waits
    return found


def product_loops(code: str) -> list[dict[str, int]]:
    """Of disassembled code: instructions of every innermost loop with products of warp groups, and of some kinds."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    spans: list[tuple[int, int]] = []
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(found[1])
            jump = re.search(r"\bBRA\b.*?(\.L_x_\d+)", found[1])
            if jump and jump[1] in labels:
                spans.append((labels[jump[1]], len(instructions)))
    found_loops = []
    for begin, end in spans:
        body = instructions[begin:end]
        counts = {word: sum(word in line for line in body) for word in ("HGMMA", "SHFL", "BAR.SYNC", "LDGSTS")}
        inner = any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in spans)
        if counts["HGMMA"] and not inner:
            found_loops.append({"instructions": end - begin} | counts)
    return found_loops


def show_loops(ops: Sequence[str]) -> None:
    for launch in (launch for op in ops or triton_ops() for launch in triton_launches(op) if 90 in launch.archs):
        with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
            binary.write(launch.compile(90).asm["cubin"])
            binary.flush()
            for loop in product_loops(run(TOOLS / "nvdisasm", "-c", binary.name)):
                print(f"{launch.name}: {', '.join(f'{count} {what}' for what, count in loop.items())}", flush=True)


def triton_ops() -> list[str]:
    """Every op of triton_kernels; each has its launches in <op>.py beside this file."""
    rooms = (
        path for path in (ROOT / "triton_kernels").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    )
    return sorted({path.stem for path in rooms} - {"__init__", "common", "frames"})


def triton_figures(ops: Sequence[str] = ()) -> Figures:
    jobs = [
        (op, index, arch)
        for op in ops or triton_ops()
        for index, launch in enumerate(triton_launches(op))
        for arch, number in TRITON_ARCHS.items()
        if number in launch.archs
    ]
    figures: Figures = {}
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for name, arch, figure in pool.map(triton_figure, *zip(*jobs, strict=True)):
            figures.setdefault(name, {})[arch] = figure
    return figures


def cuda_objects() -> dict[Path, Path]:
    """Of every .cu file the object that `make compile-only` links, made anew where it is not up to date."""
    env = os.environ | {"LONGREEL_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0 9.0a 10.0+PTX"}
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(ROOT / "build/cuda-check")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    objects = ROOT / "build/native/CMakeFiles/_ops.dir"
    return {source: objects / f"{source.relative_to(ROOT)}.o" for source in sorted(ROOT.glob("csrc/*/cuda*.cu"))}


def cuda_figures(ops: Sequence[str] = ()) -> Figures:
    figures: Figures = {}
    for source, binary in cuda_objects().items():
        report = run(TOOLS / "cuobjdump", "--dump-resource-usage", binary)
        hopper = run(TOOLS / "cuobjdump", "-arch", "sm_90a", "--dump-sass", binary)
        arch = ""
        for line, following in zip(report.splitlines(), [*report.splitlines()[1:], ""], strict=True):
            found = re.search(r"arch = (\S+)", line)
            arch = found[1] if found else arch
            if function := re.match(r" *Function (\S+?):", line):
                name = f"{source.parent.name}/{kernel_name(function[1])}"
                figures.setdefault(name, {})[arch] = resources(following)
                if arch == "sm_90a":
                    code = re.search(rf"Function : {function[1]}\n(.*?)\n\t\t\.\.\.", hopper, re.DOTALL)[1]
                    figures[name][arch] |= {what: code.count(word) for what, word in HOPPER.items() if word in code}
    return figures


def kernel_name(mangled: str) -> str:
    """`average_cells<__half, 8>` of its mangled name."""
    readable = run(shutil.which("cu++filt") or shutil.which("c++filt") or "c++filt", mangled).strip()
    return re.search(r"(\w+(?:<.*?>)?)\(", readable.replace("(anonymous namespace)::", "").replace("(int)", ""))[1]


FIGURES = {"triton": triton_figures, "cuda": cuda_figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=FIGURES)
    parser.add_argument("--write", action="store_true", help="replace the budget by the figures")
    parser.add_argument("--op", action="append", default=[], help="triton: the launches of these ops alone")
    parser.add_argument("--loops", action="store_true", help="triton: print what loops issue, and no figures")
    chosen = parser.parse_args()
    if chosen.loops:
        return show_loops(chosen.op)
    path = budget_path(chosen.which)
    figures = FIGURES[chosen.which](chosen.op)
    if chosen.op and chosen.write:
        every = {launch.name for op in triton_ops() for launch in triton_launches(op)}
        figures = {name: entry for name, entry in (json.loads(path.read_text()) | figures).items() if name in every}
    text = json.dumps(figures, indent=1, sort_keys=True)
    # one line for each architecture of a kernel
    text = re.sub(r"\{\s+(\"[^{}]*?)\s+\}", lambda found: "{" + " ".join(found[1].split()) + "}", text)
    if chosen.write:
        path.write_text(text + "\n")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
