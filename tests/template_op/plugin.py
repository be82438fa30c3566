"""The op `foo`, made of exactly the parts that CONTRIBUTING lists, put into the package while a test runs.

Its files stand in parts/ here, under the paths that they would have; what would be lines in files of the package is done by
`install`. A function stands for csrc/foo.
"""

import importlib
from pathlib import Path

import torch

import longreel
from longreel import backends, ops, schemas
from longreel.ops.registry import OPS

FILES = Path(__file__).parent / "parts"
FOLDERS = ("reference", "ops", "testing.cases", "bench.ops", "triton_kernels")
SCHEMAS = {
    "foo": "(Tensor x, float scale) -> (Tensor output)",
    "foo_backward": "(Tensor grad_output, int columns, float scale) -> (Tensor grad_x)",
}
README = "| `foo(x, ...)` | `scale * x` |"
_IMPL = torch.library.Library("longreel", "IMPL")


def install() -> None:
    for folder in FOLDERS:
        importlib.import_module(f"longreel.{folder}").__path__.append(str(FILES / folder.replace(".", "/")))
    for name, schema in SCHEMAS.items():
        schemas.define(name, schema)
    _IMPL.impl("foo.cpu", lambda x, scale: torch.mul(x.contiguous(), scale), "CPU")
    _IMPL.impl("foo_backward.cpu", lambda grad, columns, scale: torch.mul(grad.contiguous(), scale), "CPU")
    made = importlib.import_module("longreel.ops._foo")
    OPS["foo"] = made.OP
    for package in (longreel, ops):
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


def pytest_configure() -> None:
    """`pytest -p plugin`: with the op."""
    install()
