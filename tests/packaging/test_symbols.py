"""_ops.so: LibTorch's stable ABI of torch 2.10, nothing of Python, nothing newer."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import longreel

ROOT = Path(__file__).parents[2]
LIBRARY = Path(longreel.__file__).parent / "_ops.so"

# Added to the stable C shim after 2.10: their presence means TORCH_TARGET_VERSION was lost.
NEWER = ("torch_exception_get_what", "torch_exception", "torch_set_current_stream", "torch_from_blob_v2")


@pytest.fixture(scope="module")
def undefined() -> set[str]:
    return {line.split()[-1].split("@")[0] for line in nm("-D", "--undefined-only", str(LIBRARY))}


def nm(*arguments: str) -> list[str]:
    tool = shutil.which("nm")
    assert tool is not None, "nm (binutils) is needed to check the symbols of _ops.so"
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("library", ["_ops.so", "_host.so"])
def test_no_python_symbols(library: str) -> None:
    """One wheel serves every Python."""
    symbols = {line.split()[-1].split("@")[0] for line in nm("-D", str(LIBRARY.with_name(library)))}
    assert not {name for name in symbols if re.match(r"_?Py[A-Z_]", name)}
    assert "memcpy" in symbols, "nm lists no symbols"


def test_the_hosts_functions_are_all_that_it_exports() -> None:
    lines = nm("-D", "--defined-only", str(LIBRARY.with_name("_host.so")))
    strong = {line.split()[-1] for line in lines if line.split()[-2] in "TDB"}
    assert "longreel_query_tiles" in strong
    assert {name for name in strong if not name.startswith("longreel_")} <= {"_init", "_fini"}


def test_no_mangled_torch_symbols(undefined: set[str]) -> None:
    assert not {
        name for name in undefined if re.search(r"\d(at|c10|torch)\d", name) or "N2at" in name or "N3c10" in name
    }


def test_no_symbol_newer_than_the_target(undefined: set[str]) -> None:
    assert not {name for name in undefined if name.startswith(NEWER)}


def test_no_macro_newer_than_the_target() -> None:
    """Of torch's stable headers 2.10 has those that register a library; TORCH_ERROR_CODE_CHECK checks a call there as later."""
    for path in (ROOT / "csrc/bindings").iterdir():
        found = re.findall(r"\bSTABLE_TORCH_(?!LIBRARY)\w+", path.read_text())
        assert not found, f"{path.name}: torch 2.10 has no {found[0]}"


def test_it_registers_implementations(undefined: set[str]) -> None:
    assert "torch_library_impl" in undefined or "aoti_torch_library_impl" in undefined
    assert not {name for name in undefined if name.endswith("library_def")}


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="instruction sets of x86 only")
def test_no_function_of_an_instruction_set_is_shared() -> None:
    """The linker keeps one copy of a weak function: that of a newer instruction set would run on every machine."""
    build = ROOT / "build" / "native"
    objects = [p for isa in ("avx2", "avx512", "avx512bf16", "amx") for p in build.rglob(f"*_{isa}.cpp.o")]
    assert objects, f"no objects in {build}: `make build` leaves them there"
    for path in objects:
        weak = [line for line in nm(str(path)) if re.search(r" [WVwvu] ", line) and "personality" not in line]
        assert not weak, f"{path.name}: {weak}"
