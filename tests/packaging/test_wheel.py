"""What a wheel holds, and that the package imports without Triton, without native libraries, without both."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build_wheel(folder: Path, **env: str) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        env={**os.environ, **env},
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def native_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("pure"), LONGREEL_NATIVE="0")


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_top_level_is_longreel_alone(native_wheel: Path, pure_wheel: Path) -> None:
    for wheel in (native_wheel, pure_wheel):
        assert {name.split("/")[0] for name in names(wheel) if ".dist-info/" not in name} == {"longreel"}


def test_native_wheel_holds_both_libraries_and_the_rooms(native_wheel: Path) -> None:
    held = names(native_wheel)
    assert "longreel/_ops.so" in held
    assert "longreel/_host.so" in held
    assert "-py3-none-linux_" in native_wheel.name, "one wheel serves every Python"
    assert {"longreel/py.typed", "longreel/ops/registry.py"} <= held
    kernels = {path.relative_to(ROOT).as_posix() for path in (ROOT / "triton_kernels").rglob("*.py")}
    assert "triton_kernels/common/tiles.py" in kernels
    assert {f"longreel/{path}" for path in kernels} <= held


def test_pure_wheel_is_for_any_platform(pure_wheel: Path) -> None:
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in names(pure_wheel))


def run_installed(wheel: Path, folder: Path, code: str, hide: tuple[str, ...] = ()) -> str:
    """Runs `code` against the unpacked wheel, in a process that cannot see the checkout nor the `hide` packages."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in hide)
    # The installed (editable) longreel has an import hook: drop it so that the unpacked wheel is what is imported.
    hooks = "sys.meta_path = [m for m in sys.meta_path if 'Editable' not in str(m)]"
    prelude = f"import sys; {hooks}; sys.path.insert(0, {str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", f"{prelude}; {blocked or 'pass'}\n{code}"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


USE = """
import longreel, torch
assert longreel.__file__.startswith(sys.path[0]), longreel.__file__
result = longreel.compress_frames(torch.randn(4, 64), torch.randn(3, 16, 64), output_size=2)
assert result.context.shape == (3, 64) and result.content.shape == (3, 4, 64)
print(longreel.explain("compress_frames", torch.randn(4, 64), torch.randn(3, 16, 64), output_size=2).chosen)
"""


@pytest.mark.parametrize("triton", [True, False], ids=["triton", "no-triton"])
@pytest.mark.parametrize("native", [True, False], ids=["native", "pure"])
def test_imports_and_runs(native: bool, triton: bool, native_wheel: Path, pure_wheel: Path, tmp_path: Path) -> None:
    wheel = native_wheel if native else pure_wheel
    chosen = run_installed(wheel, tmp_path, USE, hide=() if triton else ("triton",))
    assert chosen.strip() == ("cpu" if native else "reference")


def test_a_library_that_does_not_load_is_said(native_wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(native_wheel) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "longreel/_ops.so").write_bytes(b"not a library")
    code = f"""
import sys, warnings
sys.meta_path = [m for m in sys.meta_path if 'Editable' not in str(m)]; sys.path.insert(0, {str(tmp_path)!r})
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import longreel
import torch
print(*(w.message for w in said))
try:
    longreel.adaptive_pool(torch.randn(1, 4, 8), 2, backend="cpu")
except longreel.BackendError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kernels do not load" in done.stdout
    assert "backend='cpu' _ops.so does not load" in done.stdout
