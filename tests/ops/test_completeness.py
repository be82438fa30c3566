"""An op has every part that CONTRIBUTING lists, and a template op of exactly these parts passes the tests of every op."""

import os
import re
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
BUDGETS = TEMPLATE / "parts/budgets"


@pytest.mark.fast
@pytest.mark.parametrize("op", OPS)
def test_op_is_complete(op: str) -> None:
    assert missing(op) == []


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The template's C++, compiled once for this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TEMPLATE))
        import plugin

        if plugin.NATIVE:
            patch.setenv("FOO_LIBRARY", str(plugin.library(tmp_path_factory.mktemp("foo"))))
        yield


@pytest.fixture
def template(native: None) -> Iterator[None]:
    import plugin

    plugin.install()
    yield
    plugin.remove()


@pytest.mark.long
def test_template_op_passes_what_every_op_passes(native: None) -> None:
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


def test_every_missing_part_is_named(monkeypatch: pytest.MonkeyPatch, template: None) -> None:
    import plugin

    complete = {"readme": README + plugin.README, "budgets": BUDGETS}
    assert missing("foo", **complete) == []
    assert plugin.launches() == ["foo/fp32", "foo/bf16", "foo/fp16"]
    assert missing("foo", README, BUDGETS) == ["row of the ops in README.md"]
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
    files = [path.relative_to(TEMPLATE / "parts") for path in TEMPLATE.glob("parts/**/*") if path.is_file()]
    places = {"triton_kernels": "triton_kernels", "budgets": "tests/budgets", "csrc": "csrc"}
    found = {str(Path(places.get(f.parts[0], f"python/longreel/{f.parts[0]}"), *f.parts[1:])) for f in files}
    assert listed == {re.sub("^csrc/foo/.*", "csrc/foo/", name) for name in found if "__pycache__" not in name}
