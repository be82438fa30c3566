"""What setup.py decides before it compiles: which torch, whose environment, and whether the build folder is this tree's."""

import os
import resource
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import setuptools

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
HEADER = "include/torch/csrc/stable/library.h"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(setuptools, "setup", lambda **given: None)
    monkeypatch.delenv("LONGREEL_TORCH_DIR", raising=False)
    built = runpy.run_path(str(ROOT / "setup.py"))
    return vars(sys.modules["torch_here"]) | built


def torch_of(folder: Path, version: str) -> Path:
    place = folder / "torch"
    (place / HEADER).parent.mkdir(parents=True)
    (place / HEADER).touch()
    (place / "version.py").write_text(f"from typing import Optional\n__version__ = '{version}'\ndebug = False\n")
    return place


@pytest.mark.parametrize(
    ("version", "fits"),
    [("2.9.1+cpu", False), ("1.13.0", False), ("2.10.0", True), ("2.15.0.dev20260901+cu130", True), ("3.0.0", True)],
)
def test_an_old_torch_is_refused_at_once(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    place = torch_of(tmp_path, version)
    monkeypatch.setenv("LONGREEL_TORCH_DIR", str(place))
    if fits:
        assert script["torch_dir"]() == place
    else:
        began = time.monotonic()
        with pytest.raises(script["Refused"], match=rf"needs torch 2\.10 or newer, .* is {version[:3]}"):
            script["torch_dir"]()
        assert time.monotonic() - began < 2


def test_refused_before_anything_is_asked_for(tmp_path: Path) -> None:
    """By the backend's first hook, in an environment that has nothing; in two seconds, Python's own start among them."""
    place = torch_of(tmp_path, "2.9.1+cpu")
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'requirements')!r}); import backend; print(backend.{{}})"
    hooks = ("get_requires_for_build_wheel()", "get_requires_for_build_editable()", "get_requires_for_build_sdist()")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = [
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", code.format(hook)],
            env=os.environ | {"LONGREEL_TORCH_DIR": str(place)}, capture_output=True, text=True,
        )
        for hook in hooks
    ]  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert [done.returncode for done in ended] == [1, 1, 0]
    said = f"error: longreel needs torch 2.10 or newer, {place} is 2.9.1+cpu: upgrade torch first\n"
    assert [done.stderr for done in ended] == [said, said, ""]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_no_torch_at_all(script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGREEL_TORCH_DIR", str(tmp_path))
    with pytest.raises(script["Refused"], match="none was found"):
        script["torch_dir"]()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "words",
    [
        ["--python", "ENV"],
        ["--python=ENV"],
        ["ENV/bin/python", "-m", "build"],
        ["ENV", "x" * 300],
        ["ENV", "y/" * 3000],
    ],
)
def test_the_environment_that_asked(tmp_path: Path, words: list[str]) -> None:
    """Found from a process below one whose command line names it, whatever else stands there."""
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").touch()
    ask = f"import runpy;print(runpy.run_path({str(ROOT / 'requirements/torch_here.py')!r})['asking_environments']())"
    start = (
        "import subprocess, sys;"
        "print(subprocess.run([sys.executable, '-c', sys.argv[1]], capture_output=True, text=True).stdout)"
    )
    given = [word.replace("ENV", "env") for word in words]
    done = subprocess.run([sys.executable, "-c", start, ask, *given], cwd=tmp_path, capture_output=True, text=True)
    assert str(tmp_path / "env") in done.stdout, done


def test_a_build_folder_of_another_tree_is_made_anew(script: dict[str, Any], tmp_path: Path) -> None:
    cache = tmp_path / "build/CMakeCache.txt"
    cache.parent.mkdir()
    cache.write_text(f"A:B=c\nCMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n")
    script["forget_moved"](cache.parent)
    assert cache.exists()
    cache.write_text("CMAKE_HOME_DIRECTORY:INTERNAL=/elsewhere\n")
    script["forget_moved"](cache.parent)
    assert not cache.parent.exists()
    script["forget_moved"](cache.parent)
