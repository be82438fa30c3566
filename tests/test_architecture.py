"""Dependencies point one way: reference, layout, backends <- ops <- cache, nn <- models, integrations <- bench, cli."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python/longreel"

# A room may import from its own storey and those below. Rooms of one storey are apart but for the pairs in NEIGHBOURS.
STOREYS = (
    {"schemas", "__version__"},
    {"_native"},
    {"measure"},
    {"reference", "layout", "backends", "rotary"},
    {"triton_kernels"},
    {"ops"},
    {"_explain"},
    {"cache", "nn", "data"},
    {"models", "integrations"},
    {"testing"},
    {"bench"},
    {"parity"},
    {"report"},
    {"cli"},
)
NEIGHBOURS = {("models", "integrations"), ("layout", "rotary"), ("reference", "layout"), ("reference", "rotary")}
# The schemas stand alone: importable before any kernel, with torch only.
SCHEMAS = "schemas.py"
# What a kernel may know of: no tensor op, no model; how a plan is cut is part of what it runs on.
KERNELS_KNOW = {"triton_kernels", "backends", "layout"}


def storey(room: str) -> int:
    return next((level for level, rooms in enumerate(STOREYS) if room in rooms), -1)


def files() -> Iterator[tuple[str, Path]]:
    """(room, file) of every Python file of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        yield relative.parts[0].removesuffix(".py"), path
    for path in sorted((ROOT / "triton_kernels").rglob("*.py")):
        yield "triton_kernels", path


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_used(path: Path) -> set[str]:
    ours = [name for name in imported(path) if name.startswith("longreel.")]
    return {name.split(".")[1] for name in ours}


FILES = [pytest.param(room, path, id=str(path.relative_to(ROOT))) for room, path in files() if room != "__init__"]


@pytest.mark.parametrize(("room", "path"), FILES)
def test_dependencies_point_down(room: str, path: Path) -> None:
    assert storey(room) >= 0, f"longreel.{room} has no storey: place it in STOREYS"
    for used in rooms_used(path) - {room}:
        if storey(used) < 0:
            assert used in public_names(), f"{path.name} imports longreel.{used}, which has no storey"
            used = "ops"
        below = storey(used) < storey(room)
        assert below or (room, used) in NEIGHBOURS, f"longreel.{room} must not import longreel.{used}"


def public_names() -> set[str]:
    """What `from longreel import name` gives."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    listed = next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return set(ast.literal_eval(listed))


def test_schemas_stand_alone() -> None:
    assert {module.split(".")[0] for module in imported(PACKAGE / SCHEMAS)} - sys.stdlib_module_names == {"torch"}


@pytest.mark.parametrize("path", [p for room, p in files() if room == "triton_kernels"], ids=lambda p: p.name)
def test_triton_kernels_know_no_models(path: Path) -> None:
    assert rooms_used(path) <= KERNELS_KNOW


def includes(path: Path) -> list[str]:
    return [line.split('"')[1] for line in path.read_text().splitlines() if line.startswith('#include "')]


NATIVE = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cuh", ".cpp", ".cu"})


@pytest.mark.parametrize("path", NATIVE, ids=lambda p: str(p.relative_to(ROOT)))
def test_native_dependencies_point_down(path: Path) -> None:
    """common <- an op <- bindings; only bindings know torch, pybind11 and Python."""
    room = path.relative_to(ROOT / "csrc").parts[0]
    text = path.read_text()
    if room != "bindings":
        assert not any(word in text for word in ("<torch/", "<ATen/", "<c10/", "<pybind11/", "<Python.h>")), (
            "knows torch or Python"
        )
    for name in includes(path):
        folder = name.split("/")[0] if "/" in name else room
        assert folder in {room, "common"} or room == "bindings" or room != "common", f"{room} includes {name}"
        assert folder != "bindings" or room == "bindings", f"{room} includes {name}"
