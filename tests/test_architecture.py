"""The rooms of docs/architecture.md: what may use what, in Python and in csrc. Each fence is seen to fail, too."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import fences
import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parent.parent
CHECKS = (
    fences.homeless,
    fences.arrows_up,
    fences.ops_together,
    fences.foreign_to_schemas,
    fences.hidden_modules,
    fences.repeated_classes,
    fences.native_arrows,
)


def circles(root: Path) -> list[str]:
    return [" -> ".join(group) for group in fences.circles(fences.import_graph(root))]


@pytest.mark.parametrize("check", [*CHECKS, circles], ids=lambda check: check.__name__)
def test_fences(check: Callable[[Path], list[str]]) -> None:
    assert check(ROOT) == []


def test_the_table_names_rooms_that_are_there() -> None:
    rooms = {fences.room(name, fences.order(ROOT).floors) for name in fences.modules(ROOT)}
    assert set(fences.order(ROOT).floors) - rooms <= AHEAD


# Rooms that the order already has a place for.
AHEAD = {"rotary", "_transformers", "integrations.lazy"}

PUBLIC = [
    name for name, path in fences.modules(ROOT).items() if path.name == "__init__.py" and "triton_kernels" not in name
]


@pytest.mark.parametrize("package", PUBLIC)
def test_a_public_name_is_no_module(package: str) -> None:
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        assert not isinstance(getattr(module, name), ModuleType), name
        assert importlib.util.find_spec(f"{package}.{name}") is None, (
            f"{package}.{name} is a module in another spelling"
        )


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their last name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py") if "template_op" not in path.parts]
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for folder in ("python/longreel", "triton_kernels", "csrc"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (copy / "docs").mkdir()
    shutil.copy(ROOT / "docs/architecture.md", copy / "docs")
    return copy


FAULTS = [
    (circles, "layout/video_layout.py", "def f():\n    from longreel.layout._ranges import ranges", "layout._ranges"),
    (circles, "layout/segments.py", "import longreel.layout.pictures", "layout.segments"),
    (fences.arrows_up, "models/llama_vid/model.py", "from longreel.models.voco_llama import model", "models.voco_llama.model"),
    (fences.arrows_up, "models/system.py", "from longreel.models.voco_llama import system", "models is on floor"),
    (fences.arrows_up, "backends.py", "if 0:\n    from longreel.ops import registry", "longreel.backends imports"),
    (fences.arrows_up, "measure/clock.py", "from longreel.ops import registry", "longreel.measure.clock imports"),
    (fences.arrows_up, "measure/memory.py", "import longreel", "longreel.measure.memory imports longreel:"),
    (fences.arrows_up, "layout/segments.py", "from longreel.layout.context import use_layout", "longreel.layout.segments"),
    (fences.arrows_up, "testing/budget.py", "def f():\n    import longreel.models.llama_vid", "longreel.testing.budget imports"),
    (fences.arrows_up, "models/checkpoint.py", "from longreel.parity import agreement", "longreel.models.checkpoint imports"),
    (fences.arrows_up, "cache/voco.py", "from longreel.nn import ContextAttention", "cache is on floor"),
    (fences.arrows_up, "reference/adaptive_pool.py", "from longreel.layout.context import use_layout", "reference is on"),
    (fences.arrows_up, "../../triton_kernels/adaptive_pool/x.py", "from longreel.schemas import overload", "kernels know of"),
    (fences.ops_together, "ops/_adaptive_pool.py", "from longreel.ops._compress_frames import x", "ops._compress_frames"),
    (fences.foreign_to_schemas, "schemas.py", "def f():\n    import numpy", "numpy"),
    (fences.foreign_to_schemas, "schemas.py", "from longreel import backends", "longreel"),
    (fences.hidden_modules, "ops/compress_frames.py", "x = 1", "longreel.ops.compress_frames"),
    (fences.hidden_modules, "explain.py", "x = 1", "longreel.explain"),
    (fences.repeated_classes, "models/setup.py", "class Verdict:\n    pass", "Verdict: longreel."),
    (fences.homeless, "attic.py", "x = 1", "longreel.attic"),
    (fences.homeless, "attic/__init__.py", "x = 1", "longreel.attic"),
    (fences.native_arrows, "../../csrc/layout/planner.h", '#include "adaptive_pool/pool_window.h"', "includes adaptive_pool"),
    (fences.native_arrows, "../../csrc/common/exp.h", '#include "layout/planner.h"', "common/exp.h includes layout"),
    (fences.native_arrows, "../../csrc/layout/planner.h", "#include <torch/extension.h>", "knows <torch/"),
    (fences.native_arrows, "../../csrc/layout/planner.h", '#include "bindings/host_layout.h"', "includes bindings"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "file", "line", "says"), FAULTS, ids=[f"{f[0].__name__}-{f[1]}" for f in FAULTS])
def test_a_fault_is_seen(tree: Path, check: Callable[[Path], list[str]], file: str, line: str, says: str) -> None:
    path = tree / "python/longreel" / file
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before or ''}\n{line}\n")
    found = check(tree)
    if before is None:
        path.unlink()
    else:
        path.write_text(before)
    assert any(says in one for one in found)
