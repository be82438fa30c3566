"""The op `foo`, made of exactly the parts that CONTRIBUTING lists, put into the package while a test runs.

Its files stand in parts/ here, under the paths that they would have; what would be lines in files of the package is done by
`install`, and what CMake would compile by `library`.
"""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import longreel
from longreel import backends, ops, schemas
from longreel.ops.registry import OPS

ROOT = Path(__file__).parents[2]
FILES = Path(__file__).parent / "parts"
FOLDERS = ("reference", "ops", "testing.cases", "bench.ops", "triton_kernels")
SCHEMAS = {
    "foo": "(Tensor x, float scale) -> (Tensor output)",
    "foo_backward": "(Tensor grad_output, int columns, float scale) -> (Tensor grad_x)",
}
README = "| `foo(x, ...)` | `scale * x` |"
NATIVE = longreel._native.OPS_REFUSAL is None


def library(folder: Path) -> Path:
    """csrc/foo and its binding, compiled as CMakeLists.txt compiles every op's, into a library of their own."""
    made, torch_folder = folder / "foo.so", Path(torch.__file__).parent
    shared = [ROOT / "csrc/bindings/tensor_args.cpp", ROOT / "csrc/common/scratch.cpp"]
    sources = [*FILES.glob("csrc/*/*.cpp"), *shared]
    command = [
        os.environ.get("CXX") or shutil.which("c++") or "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra",
        "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020A000000000000", f"-I{FILES / 'csrc'}", f"-I{ROOT / 'csrc'}",
        f"-isystem{torch_folder / 'include'}", *map(str, sources), "-o", str(made),
        "-Wl,--no-as-needed", f"-L{torch_folder / 'lib'}", "-ltorch", "-ltorch_cpu",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return made


def install() -> None:
    for folder in FOLDERS:
        importlib.import_module(f"longreel.{folder}").__path__.append(str(FILES / folder.replace(".", "/")))
    for name, schema in SCHEMAS.items():
        schemas.define(name, schema)
    if NATIVE:
        named = os.environ.get("FOO_LIBRARY")
        with tempfile.TemporaryDirectory() as folder:
            torch.ops.load_library(named or library(Path(folder)))
    made = importlib.import_module("longreel.ops._foo")
    for package in (longreel, ops):  # `longreel` takes all that `ops` has
        package.foo = made.foo
        package.__all__.append("foo")


def remove() -> None:
    del OPS["foo"], backends.TABLE["foo"]
    for name in SCHEMAS:
        del schemas.SCHEMAS[name]
    for package in (longreel, ops):
        del package.foo
        package.__all__.remove("foo")
    for folder in FOLDERS:
        importlib.import_module(f"longreel.{folder}").__path__.remove(str(FILES / folder.replace(".", "/")))


def launches() -> list[str]:
    """What tests/budgets/foo.py lists, compiled for one architecture: its names."""
    sys.path[:0] = [str(FILES / "budgets"), str(ROOT / "tests/budgets")]
    try:
        spec = importlib.util.spec_from_file_location("foo_launches", FILES / "budgets/foo.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return [launch.name for launch in module.launches() if launch.compile(90).asm["cubin"]]
    finally:
        del sys.path[:2]


def pytest_configure() -> None:
    """`pytest -p plugin`: with the op."""
    install()
