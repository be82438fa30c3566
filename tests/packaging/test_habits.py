"""pre-commit does what `make lint` does, workflows call targets that are there, and a release is refused for a reason."""

import re
import runpy
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast
ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def test_before_a_commit_runs_what_lint_runs() -> None:
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert lint is not None
    wanted = [line.strip().removeprefix("@$(VENV)/").removesuffix(" $(native_code)") for line in lint[1].splitlines()]
    there = re.findall(r"entry: \.venv/([^,]*),", (ROOT / ".pre-commit-config.yaml").read_text())
    assert sorted(wanted) == sorted(there)


def test_the_houses_bans_hold() -> None:
    bans = re.findall(
        r"entry: '([^']*)', language: pygrep, files: '\^(\w+)/'", (ROOT / ".pre-commit-config.yaml").read_text()
    )
    assert len(bans) == 2
    for pattern, folder in bans:
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".h", ".cuh", ".cpp", ".cu") and "bindings" not in path.parts:
                assert not re.search(pattern, path.read_text()), path
    assert re.search(bans[0][0], "p = tl.make_block_ptr(x)")
    assert re.search(bans[1][0], "#include <torch/csrc/stable/library.h>")


def test_workflows_call_targets_that_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    texts = "\n".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml"))
    called = set(re.findall(r"make ([a-z-]+)", texts))
    (listed,) = re.findall(r"target: \[(.+)\]", texts)
    called |= {target.split()[0] for target in listed.split(", ")}
    assert {"matrix", "docs", "compile-only", "fuzz", "sanitize"} <= called <= targets


def test_a_release_is_refused_for_a_reason(tmp_path: Path) -> None:
    objections = runpy.run_path(str(ROOT / ".ci/release.py"))["objections"]
    for name in ("pyproject.toml", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    log = tmp_path / "CHANGELOG.md"
    log.write_text("# Changelog\n\n## 0.1.0 (2026-12-01)\n")
    assert objections("0.1.0", tmp_path) == []
    assert len(objections("0.2.0", tmp_path)) == 3
    log.write_text("# Changelog\n\n## 0.1.0 (unreleased)\n")
    assert objections("0.1.0", tmp_path) == ["CHANGELOG.md begins with 0.1.0 (unreleased), not with 0.1.0 and a date"]
    assert objections("one", tmp_path)[0].startswith("one is no version")
