"""An op has every part that CONTRIBUTING lists, and a template op of exactly these parts passes the tests of every op."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from completeness import README, ROOT, missing, parts_of

from longreel import ops
from longreel.ops.registry import OPS
from longreel.testing.cases import corners

TEMPLATE = ROOT / "tests/template_op"


@pytest.mark.fast
@pytest.mark.parametrize("op", OPS)
def test_op_is_complete(op: str) -> None:
    assert missing(op) == []


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(TEMPLATE))
    import plugin

    plugin.install()
    yield
    plugin.remove()


def test_template_op_passes_what_every_op_passes() -> None:
    """The contract, its arguments, the backends, the benchmark, the interpreter, in a process that has the op."""
    tests = [*map(str, sorted((ROOT / "tests/ops").glob("test_contract*.py"))), "tests/ops/test_backends.py"]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "plugin", "-k", "foo and not beyond", "-x"]
    path = os.pathsep.join([str(TEMPLATE), os.environ.get("PYTHONPATH", "")])
    for environment, files in (({}, [*tests, "tests/bench/test_cases.py"]), ({"TRITON_INTERPRET": "1"}, INTERPRETED)):
        env = os.environ | {"PYTHONPATH": path} | environment
        done = subprocess.run([*command, *files], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "passed" in done.stdout or "%" in done.stdout


INTERPRETED = ["tests/ops/interpreted_cases.py"]


def test_every_missing_part_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: None) -> None:
    import plugin

    (tmp_path / "foo.py").write_text("")
    complete = {"readme": README + plugin.README, "budgets": tmp_path}
    assert missing("foo", **complete) == []
    assert missing("foo", README, tmp_path) == ["row of the ops in README.md"]
    assert missing("foo", complete["readme"], TEMPLATE) == ["kernel budget: launches in tests/budgets/foo.py"]
    with monkeypatch.context() as without:
        without.setattr(ops, "__all__", [name for name in ops.__all__ if name != "foo"])
        assert missing("foo", **complete) == ["public export in longreel/ops/__init__.py"]
    for kind, part in (
        ("cases", "cases, one of them fast, in"),
        ("bad_cases", "bad input, `bad_cases()` in"),
        ("gpu_cases", "GPU cases, `gpu_cases()` in"),
        ("interpreted", "interpreter run, `interpreted()` in"),
    ):
        with monkeypatch.context() as without:
            without.setattr(corners("foo"), kind, list)
            found = missing("foo", **complete)
            assert found[0] == f"{part} longreel/testing/cases/foo.py"
            # the template's interpreter run takes the cases
            assert len(found) == (2 if kind == "cases" else 1)
    for module, part in (
        ("reference.foo", "reference in longreel/reference/foo.py"),
        ("bench.ops.foo", "benchmark case in longreel/bench/ops/foo.py"),
        ("triton_kernels.foo", "Triton kernels in triton_kernels/foo"),
    ):
        with monkeypatch.context() as without:
            package = sys.modules[f"longreel.{module.rpartition('.')[0]}"]
            without.setattr(package, "__path__", [p for p in package.__path__ if "template_op" not in str(p)])
            without.delitem(sys.modules, f"longreel.{module}")
            assert missing("foo", **complete) == [part]
    with monkeypatch.context() as without:
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        without.setattr(
            torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: "foo" not in name and has(name, key)
        )
        assert missing("foo", **complete) == ["CPU kernel registration of foo and foo_backward"]


@pytest.mark.fast
def test_contributing_lists_the_files_of_the_template() -> None:
    """Neither more nor fewer."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    text = text[text.index("## To add an op") : text.index("## What a change must keep")]
    listed = {part.replace("<op>", "foo") for part in parts_of(text)}
    files = {str(path.relative_to(TEMPLATE / "parts")) for path in TEMPLATE.glob("parts/**/*.py")}
    python = {f if f.startswith("triton") else f"python/longreel/{f}" for f in files}
    assert listed == python | {"tests/budgets/foo.py", "csrc/foo/", "csrc/bindings/foo.cpp"}
