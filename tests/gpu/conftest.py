"""Everything in this folder needs a CUDA device; without one it is collected, and skipped with one reason."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lines", type=Path, help="tests/gpu: a file to which what became of each test is appended")
    parser.addoption("--passed", type=Path, help="tests/gpu: a file of tests, a line each, that are left out")


class Told:
    def __init__(self, lines: Callable[..., None]) -> None:
        self.lines = lines

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # one that is skipped is asked again, perhaps where it can run
        if report.failed or (report.when == "call" and report.passed):
            self.lines(step="tests", test=report.nodeid, ok=report.passed)


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--lines", None)
    if path is not None and not hasattr(config, "workerinput"):
        lines: Any = runpy.run_path(str(ROOT / ".ci/gpu_lines.py"))["Lines"]
        config.pluginmanager.register(Told(lines(path, printed=False)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if path := config.getoption("--passed", None):
        passed = {*path.read_text(encoding="utf-8").splitlines()}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(
                    pytest.mark.skip(reason="no CUDA device (make gpu runs these on a machine that has one)")
                )
