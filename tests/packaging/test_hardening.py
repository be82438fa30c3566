"""Both native libraries, as ELF files: symbols bound at the start, nothing writable that need not be, checks compiled in."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from longreel import _native

FOLDER = Path(_native.__file__).parent
LIBRARIES = [*FOLDER.glob("_ops.so"), *FOLDER.glob("_host.so")]
pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif(sys.platform != "linux" or len(LIBRARIES) < 2, reason="no native libraries of Linux"),
]


def read(*arguments: str) -> str:
    tool = shutil.which("readelf")
    assert tool is not None, "readelf (binutils) is needed"
    return subprocess.run([tool, "-W", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_it_is_hardened(library: Path) -> None:
    dynamic, segments, symbols = (read(what, str(library)) for what in ("-d", "-l", "--dyn-syms"))
    assert "BIND_NOW" in dynamic
    assert "GNU_RELRO" in segments
    (stack,) = (line for line in segments.splitlines() if "GNU_STACK" in line)
    assert stack.split()[-2] == "RW", "the stack is executable"
    assert not any(line.split()[-2] == "RWE" for line in segments.splitlines() if line.split()[:1] == ["LOAD"])
    assert not {"TEXTREL", "RPATH", "RUNPATH"} & {word.strip("()") for word in dynamic.split()}
    assert "__stack_chk_fail" in symbols
    # Of the planner nothing calls what is checked, or the compiler knows each size.
    assert library.name != "_ops.so" or "_chk@" in symbols.replace("__stack_chk_fail@", "")


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_it_says_nothing_of_the_machine_that_built_it(library: Path) -> None:
    root = str(Path(__file__).parents[2]).encode()
    assert root not in library.read_bytes()
