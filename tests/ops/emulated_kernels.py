"""Compiles the CUDA kernels and their bindings for the emulator: one library whose `.cuda` ops run on CPU tensors."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from longreel.testing import poison
from longreel.testing.cases.case import Inputs
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Run, Variant, low_level, run, yardstick

ROOT = Path(__file__).parents[2]
EMULATOR = ROOT / "tests/emulator"
INCLUDES = [f"-I{EMULATOR / 'include'}", f"-I{ROOT / 'csrc'}", f"-isystem{Path(torch.__file__).parent / 'include'}"]
FLAGS = [
    "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
    "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020A000000000000", *INCLUDES,
]  # fmt: skip


# Threads and blocks first to last, last to first, at random.
ORDERS = (0, 1, 2)


def sources() -> list[Path]:
    csrc = ROOT / "csrc"
    return [
        EMULATOR / "emulator.cpp",
        csrc / "bindings/tensor_args.cpp",
        csrc / "common/scratch.cpp",
        *sorted(csrc.glob("bindings/cuda_*.cpp")),
        *sorted(csrc.glob("*/cuda*.cu")),
    ]


def library() -> Path:
    """The compiled library, made anew where a source has changed."""
    digest = hashlib.sha256(repr((FLAGS, torch.__version__)).encode())
    for path in sorted([*EMULATOR.rglob("*.*"), *(ROOT / "csrc").rglob("*.*")]):
        digest.update(path.read_bytes())
    folder = ROOT / "build/emulator" / digest.hexdigest()[:16]
    target = folder / "emulated_ops.so"
    if not target.exists():
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            objects = list(pool.map(lambda source: _compile(source, folder), sources()))
        made = folder / "made.so"
        lib = Path(torch.__file__).parent / "lib"
        _run("-shared", *objects, f"-L{lib}", "-ltorch", "-ltorch_cpu", "-pthread", "-o", made)
        made.rename(target)
    return target


def load() -> ctypes.CDLL:
    """Registers the emulated ops with torch; returns the emulator's own functions."""
    path = library()
    torch.ops.load_library(path)
    return ctypes.CDLL(str(path))


def _compile(source: Path, folder: Path) -> Path:
    made = folder / f"{source.parent.name}_{source.stem}.o"
    _run(*FLAGS, "-x", "c++", "-c", source, "-o", made)
    return made


def _run(*arguments: str | Path) -> None:
    done = subprocess.run([os.environ.get("CXX", "g++"), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the emulator's build failed:\n{done.stderr[-6000:]}")


def kernel(variant: Variant, inputs: Inputs, grad: bool = True) -> dict[str, Tensor]:
    wanted = variant.spec.differentiable if grad else ()
    with poison():
        got: Run = run(variant.op, low_level(variant), inputs, wanted)
    return got.everything


def check(
    variant: Variant, inputs: Inputs, dtype: torch.dtype, got: dict[str, Tensor] | None = None, label: str = ""
) -> None:
    expected = yardstick(variant.op, inputs, dtype, variant.spec.differentiable)
    try:
        expected.check(kernel(variant, inputs) if got is None else got)
    except AssertionError as error:
        raise AssertionError(f"{label}{error}") from None


def check_orders(emulator: ctypes.CDLL, variant: Variant, inputs: Inputs, dtype: torch.dtype) -> None:
    """Within the error budget, and the same bits whatever runs first."""
    emulator.emulator_set_order(ORDERS[0])
    first = kernel(variant, inputs)
    check(variant, inputs, dtype, first)
    for order in ORDERS[1:]:
        emulator.emulator_set_order(order)
        for name, value in kernel(variant, inputs).items():
            assert same_bits(value, first[name]), f"{name} depends on the order of the threads"
