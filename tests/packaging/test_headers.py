"""Every header of csrc compiles alone, with the flags of the instruction set that its name ends in."""

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
COMPILER = os.environ.get("CXX", "c++")
# The emulator's stand-ins for CUDA's own headers come first, as in its build.
OWN = [ROOT / "tests/emulator/include", CSRC]
OTHERS = [Path(torch.__file__).parent / "include", Path(sysconfig.get_path("include"))]
FLAGS = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
DEFINES = ["-DTORCH_TARGET_VERSION=0x020A000000000000", "-DLONGREEL_X86=1", "-DUSE_CUDA"]
HEADERS = sorted(path.relative_to(CSRC).as_posix() for path in [*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh")])


def isa_flags() -> dict[str, list[str]]:
    """What CMakeLists.txt compiles `*_<set>` with."""
    text = (ROOT / "CMakeLists.txt").read_text()
    lists = dict(re.findall(r"^set\((avx512|isa_flags_\w+) ([^)]*)\)", text, re.MULTILINE))
    lists = {name: flags.replace("${avx512}", lists["avx512"]).split() for name, flags in lists.items()}
    return {name.removeprefix("isa_flags_"): flags for name, flags in lists.items() if name.startswith("isa_flags_")}


def flags_of(header: str) -> list[str]:
    """Flags by the suffix of the name, where `_bf16` is AVX512_BF16's."""
    suffix = Path(header).stem.rpartition("_")[2]
    return isa_flags().get({"bf16": "avx512bf16"}.get(suffix, suffix), [])


def first_of(header: str) -> str | None:
    """The header that this one begins with: where this one compiles alone, so does that one."""
    found = re.match(r'(?:\s|//[^\n]*\n|#pragma once)*#include "([^"]+)"', (CSRC / header).read_text())
    return found[1] if found and flags_of(found[1]) == flags_of(header) else None


def compile_alone(header: str) -> str:
    """What the compiler says of a file that includes nothing else; empty where it is content."""
    includes = [*(f"-I{path}" for path in OWN), *(f"-isystem{path}" for path in OTHERS)]
    command = [COMPILER, *FLAGS, *DEFINES, *flags_of(header), *includes]
    done = subprocess.run([*command, "-x", "c++", "-"], input=f'#include "{header}"\n', capture_output=True, text=True)
    return done.stderr[:2000] if done.returncode else ""


@pytest.mark.long
@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="headers of x86 instruction sets")
def test_every_header_compiles_alone() -> None:
    assert {"avx2", "avx512", "avx512bf16", "amx"} <= isa_flags().keys()
    first = {header: first_of(header) for header in HEADERS}
    outer = [header for header in HEADERS if header not in first.values()]
    reached = set(outer)
    for header in outer:
        while (header := first[header]) is not None:
            reached.add(header)
    assert reached == set(HEADERS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = dict(zip(outer, pool.map(compile_alone, outer), strict=True))
    failed = "\n".join(text for text in said.values() if text)
    assert not failed, failed


def test_includes_are_paths_from_csrc() -> None:
    sources = [path for path in CSRC.rglob("*.*") if path.is_file()]
    named = [(path, name) for path in sources for name in re.findall(r'#include "([^"]+)"', path.read_text())]
    assert len(named) > 100
    assert [f"{path.relative_to(ROOT)}: {name}" for path, name in named if not (CSRC / name).exists()] == []
