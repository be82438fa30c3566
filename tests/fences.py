"""What the fences of this project are checked with: import graphs of a tree, circles in them, arrows that point up.

Every import counts, also those inside functions and for type checkers. A tree is any folder that has `python/longreel`,
`triton_kernels`, `csrc` and `docs/architecture.md`, so that a test can put a fault into a copy.
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

# From a module to those it imports.
Graph = dict[str, set[str]]

PACKAGE = "longreel"
# What a room of kernels may use of the floors below it.
KERNELS, KERNELS_KNOW = "triton_kernels", {"triton_kernels", "backends", "layout"}
FOREIGN = ("<torch/", "<ATen/", "<c10/", "<pybind11/", "<Python.h>")


class Order(NamedTuple):
    """The tables of docs/architecture.md. floors: of every room; includes: of every native op, what it may include."""

    floors: dict[str, int]
    includes: dict[str, set[str]]


def order(root: Path) -> Order:
    floors: dict[str, int] = {}
    includes = {}
    for line in (root / "docs/architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].isdigit():
            for name in _names(cells[1]):
                for each in _folders(root, name) if name.endswith(".*") else [name]:
                    assert each not in floors, f"docs/architecture.md has {each} on two floors"
                    floors[each] = int(cells[0])
        elif len(cells) == 2 and _names(cells[0]):
            (op,) = _names(cells[0])
            includes[op] = set(_names(cells[1]))
    return Order(floors, includes)


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package and its file; `triton_kernels` is installed as `longreel.triton_kernels`."""
    found = {}
    for folder, prefix in ((root / "python/longreel", PACKAGE), (root / KERNELS, f"{PACKAGE}.{KERNELS}")):
        for path in sorted(folder.rglob("*.py")):
            parts = [prefix, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imported(text: str) -> tuple[tuple[str, ...], ...]:
    """What each import statement of a file may mean, the longest name first."""
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            found += [(f"{node.module}.{alias.name}", str(node.module)) for alias in node.names]
    return tuple(found)


def import_graph(root: Path) -> Graph:
    """Which module of the package imports which."""
    known = modules(root)
    return {
        name: {
            next(one for one in meant if one in known)
            for meant in imported(path.read_text())
            if any(one in known for one in meant)
        }
        - {name}
        for name, path in known.items()
    }


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import one another in a circle (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def room(module: str, floors: dict[str, int]) -> str | None:
    """The room of a module: the longest one that names it or what it is in."""
    parts = module.split(".")[1:]
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in names if name in floors), None) if parts else PACKAGE


def homeless(root: Path) -> list[str]:
    """Modules that no room of the table takes."""
    floors = order(root).floors
    return [name for name in modules(root) if room(name, floors) is None]


def arrows_up(root: Path) -> list[str]:
    """Imports of a room that is not on a lower floor."""
    floors, found = order(root).floors, []
    for module, used in import_graph(root).items():
        own = room(module, floors)
        for other in sorted(used):
            there = room(other, floors)
            if own is None or there is None or own == there:
                continue
            if floors[there] >= floors[own]:
                found.append(f"{module} imports {other}: {own} is on floor {floors[own]}, {there} on {floors[there]}")
            if own == KERNELS and there not in KERNELS_KNOW:
                found.append(f"{module} imports {other}: kernels know of {', '.join(sorted(KERNELS_KNOW))} only")
    return found


def ops_together(root: Path) -> list[str]:
    """Imports of one op by another: `ops/_<op>.py`, or a package of that name."""
    of = re.compile(rf"{PACKAGE}\.ops\._(\w+)")
    found = []
    for module, used in import_graph(root).items():
        own = of.match(module)
        found += [f"{module} imports {o}" for o in sorted(used) if own and (op := of.match(o)) and op[1] != own[1]]
    return found


def foreign_to_schemas(root: Path) -> list[str]:
    """What `schemas` imports beside torch and Python's own."""
    names = {meant[-1] for meant in imported((root / "python/longreel/schemas.py").read_text())}
    return sorted(name for name in names if name.split(".")[0] not in {"torch", *sys.stdlib_module_names})


def hidden_modules(root: Path) -> list[str]:
    """Public names of a package that are modules in another spelling. Packages of kernels are none that users import from."""
    known = modules(root)
    return [
        f"{package}.{name}"
        for package, path in known.items()
        if path.name == "__init__.py" and not package.startswith(f"{PACKAGE}.{KERNELS}")
        for name in sorted(_public(path, known))
        if f"{package}.{name}" in known
    ]


# A piece of a layout, and a piece of a file: data knows no layout.
TWICE = {"Segment"}


def repeated_classes(root: Path) -> list[str]:
    """Classes of one name in two modules, private ones aside: a name has one meaning."""
    found: dict[str, list[str]] = {}
    for module, path in modules(root).items():
        if any(part.startswith("_") for part in module.split(".")):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(module)
    return [f"{name}: {', '.join(places)}" for name, places in found.items() if len(places) > 1 and name not in TWICE]


def native_arrows(root: Path) -> list[str]:
    """Includes that point up, or from one op to another without a line in the table."""
    allowed, found = order(root).includes, []
    for path in sorted(p for p in (root / "csrc").rglob("*") if p.suffix in {".h", ".cuh", ".cpp", ".cu"}):
        name = path.relative_to(root / "csrc").as_posix()
        own = name.split("/")[0]
        text = path.read_text()
        if own == "bindings":
            continue
        found += [f"{name} knows {word}" for word in FOREIGN if word in text]
        for line in re.findall(r'^\s*#\s*include "([^"]+)"', text, re.MULTILINE):
            other = line.split("/")[0] if "/" in line else own
            if other != own and (own == "common" or other not in {"common"} | allowed.get(own, set())):
                found.append(f"{name} includes {line}")
    return found


def _public(path: Path, known: dict[str, Path]) -> set[str]:
    """Names that an `__init__.py` makes or takes from elsewhere, but for modules that it imports as such."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names if f"{node.module}.{alias.name}" not in known}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            if ast.unparse(node.targets[0]) == "__all__":
                names |= set(ast.literal_eval(node.value))
    return names


def _names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _folders(root: Path, pattern: str) -> list[str]:
    """`models.*`: the packages in models/, one room each."""
    folder = pattern.removesuffix(".*")
    inside = (root / "python/longreel" / folder.replace(".", "/")).glob("*/__init__.py")
    return [f"{folder}.{path.parent.name}" for path in sorted(inside)]
