"""Builds longreel: Python packages by setuptools, the native libraries by CMake + Ninja.

Environment: LONGREEL_NATIVE=auto|0|1, LONGREEL_CUDA=auto|0|1, LONGREEL_TORCH_DIR, TORCH_CUDA_ARCH_LIST, CUDA_HOME, MAX_JOBS.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "requirements"))

from torch_here import choice, native_wanted, torch_dir  # noqa: E402, what the build backend asks too

DEFAULT_ARCHS = "80-real;90a-real;100-real;100-virtual"


def nvcc() -> Path | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [Path(home) / "bin/nvcc"] if home else []
    found = shutil.which("nvcc")
    candidates += [Path(found)] if found else []
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    return next((c for c in candidates if c.exists()), None)


def gpu_visible() -> bool:
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True).stdout.startswith(b"GPU")


def cuda_wanted() -> bool:
    """LONGREEL_CUDA=1 insists, 0 refuses, auto compiles CUDA where a GPU and nvcc are there."""
    wanted = choice("LONGREEL_CUDA")
    if wanted == "1" and nvcc() is None:
        raise SetupError("LONGREEL_CUDA=1 needs nvcc, and there is none on PATH, in CUDA_HOME or /usr/local/cuda")
    if wanted == "auto" and gpu_visible() and nvcc() is None:
        print("longreel: a GPU is visible but nvcc is not: building without CUDA kernels (Triton's still run)")
    return wanted == "1" or (wanted == "auto" and gpu_visible() and nvcc() is not None)


def cuda_archs() -> str:
    """CMake's CUDA_ARCHITECTURES from TORCH_CUDA_ARCH_LIST ("8.0;9.0a+PTX"); else the card here; else the default list."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").replace(",", " ").split()
    if not listed:
        return "native" if gpu_visible() else DEFAULT_ARCHS
    archs = []
    for entry in listed:
        number = entry.removesuffix("+PTX").replace(".", "")
        if not number.rstrip("af").isdigit():
            raise SetupError(f"TORCH_CUDA_ARCH_LIST: {entry!r} is not an architecture such as 8.0, 9.0a or 10.0+PTX")
        archs += [f"{number}-real"] + ([f"{number}-virtual"] if entry.endswith("+PTX") else [])
    return ";".join(archs)


def tool(name: str) -> str:
    """A build tool on PATH, or from its Python package."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SetupError(
            f"longreel's native build needs {name}: pip install {name}, or build without: LONGREEL_NATIVE=0"
        )
    return found


def forget_moved(build: Path) -> None:
    """A build folder that came along with a copied or moved source tree is made anew: its paths are of the other one."""
    cache = build / "CMakeCache.txt"
    if not cache.exists():
        return
    source = re.search(r"^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$", cache.read_text(encoding="utf-8"), re.MULTILINE)
    if source is None or Path(source[1]) != ROOT:
        shutil.rmtree(build)


class NativeBuild(build_ext):
    """Configures once, then rebuilds what changed; the libraries land in the package folder of the build."""

    def run(self) -> None:
        if not self.extensions:
            return
        if shutil.which(os.environ.get("CXX", "c++")) is None:
            raise SetupError(
                "longreel's native build needs a C++17 compiler (c++, or CXX), or build without: LONGREEL_NATIVE=0"
            )
        target = Path(self.get_ext_fullpath("longreel._host")).resolve().parent
        target.mkdir(parents=True, exist_ok=True)
        cuda = cuda_wanted()
        build = ROOT / "build" / "native"
        configure = [
            tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DLONGREEL_TORCH_DIR={torch_dir()}",
            f"-DLONGREEL_OUTPUT={target}",
            f"-DLONGREEL_CUDA={'ON' if cuda else 'OFF'}",
        ]  # fmt: skip
        if cuda:
            configure += [f"-DCMAKE_CUDA_COMPILER={nvcc()}", f"-DCMAKE_CUDA_ARCHITECTURES={cuda_archs()}"]
        forget_moved(build)
        self._step("configure", configure)
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        self._step("compile", [tool("cmake"), "--build", str(build), "--parallel", jobs])

    def _step(self, what: str, command: list[str]) -> None:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SetupError(f"longreel: {what} failed: {' '.join(command)}\n{done.stdout}")
        if self.verbose or os.environ.get("LONGREEL_VERBOSE"):
            print(done.stdout)

    def get_ext_filename(self, ext_name: str) -> str:
        """Without Python's version: nothing in it is Python's."""
        return f"{ext_name.replace('.', os.sep)}.so"

    def get_outputs(self) -> list[str]:
        host = Path(self.get_ext_fullpath("longreel._host"))
        return [str(host), str(host.parent / "_ops.so")] if self.extensions else []


class AnyPython(bdist_wheel):
    """A wheel with native libraries is for one platform and every Python of it."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(
    packages=[
        *find_packages("python"),
        *(f"longreel.{room}" for room in find_packages(".", include=["triton_kernels*"])),
    ],
    package_dir={"": "python", "longreel.triton_kernels": "triton_kernels"},
    package_data={"longreel": ["py.typed"], "longreel.models.video_xl": ["needle/*"]},
    # One name for setuptools; CMake makes longreel/_host.so and longreel/_ops.so together.
    ext_modules=[Extension("longreel._host", sources=[])] if native_wanted() else [],
    cmdclass={"build_ext": NativeBuild, "bdist_wheel": AnyPython},
)
