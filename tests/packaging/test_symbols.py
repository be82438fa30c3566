"""_ops.so: LibTorch's stable ABI of torch 2.10, nothing of Python, nothing newer."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import longreel

LIBRARY = Path(longreel.__file__).parent / "_ops.so"

# Added to the stable C shim after 2.10: their presence means TORCH_TARGET_VERSION was lost.
NEWER = ("torch_exception_get_what", "torch_exception", "torch_set_current_stream", "torch_from_blob_v2")


@pytest.fixture(scope="module")
def undefined() -> set[str]:
    nm = shutil.which("nm")
    assert nm is not None, "nm (binutils) is needed to check the symbols of _ops.so"
    out = subprocess.run(
        [nm, "-D", "--undefined-only", str(LIBRARY)], check=True, capture_output=True, text=True
    ).stdout
    return {line.split()[-1].split("@")[0] for line in out.splitlines()}


def test_no_python_symbols(undefined: set[str]) -> None:
    assert not {name for name in undefined if re.match(r"_?Py[A-Z_]", name)}


def test_no_mangled_torch_symbols(undefined: set[str]) -> None:
    assert not {
        name for name in undefined if re.search(r"\d(at|c10|torch)\d", name) or "N2at" in name or "N3c10" in name
    }


def test_no_symbol_newer_than_the_target(undefined: set[str]) -> None:
    assert not {name for name in undefined if name.startswith(NEWER)}


def test_it_registers_implementations(undefined: set[str]) -> None:
    assert "torch_library_impl" in undefined or "aoti_torch_library_impl" in undefined
    assert not {name for name in undefined if name.endswith("library_def")}
