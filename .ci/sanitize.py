"""`make sanitize`: the native CPU code under AddressSanitizer and UndefinedBehaviorSanitizer, then under ThreadSanitizer.

    python .ci/sanitize.py [address] [thread]

Each builds into build/sanitize-NAME, beside links to the package, so that what `make build` made stays as it is; a first report
ends the run. Faults planted in tests/sanitizers/planted.cpp must be found first.

ThreadSanitizer does not know how OpenMP waits for its threads: under it kernels run on threads of C++ (torch_threads), four of
them, PyTorch itself on one.
"""

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = "tests/ops/test_contract.py"


@dataclass(frozen=True)
class Sanitizer:
    """planted: functions of planted.cpp and a word of the report that each must give. tests: arguments of pytest."""

    name: str
    libraries: tuple[str, ...]
    options: dict[str, str]
    planted: dict[str, str]
    tests: dict[str, list[str]]
    threads: int


ADDRESS = Sanitizer(
    "address",
    ("asan", "ubsan", "stdc++"),
    {
        # Sizes that no machine has are for the caller to refuse.
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:allocator_may_return_null=1:strict_init_order=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    },
    {
        "heap": "heap-buffer-overflow",
        "overflow": "signed integer overflow",
        "cast": "outside the range of representable",
    },
    {
        "planner and 500 random layouts": ["tests/layout"],
        "contract, fast set": [
            "-m",
            "fast and not slow",
            *sorted(map(str, Path("tests/ops").glob("test_contract*.py"))),
        ],
        "any strides, every instruction set": ["tests/ops/test_contract_memory.py", "-k", "test_any_strides and cpu"],
        "mutated calls, layouts and tables": ["tests/fuzz", "-k", "calls or layouts or tables"],
    },
    2,
)
THREAD = Sanitizer(
    "thread",
    ("tsan", "stdc++"),
    {"TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0:second_deadlock_stack=1"},
    {"race": "data race"},
    {"every op, forward and backward": [CONTRACT, "-m", "fast and not slow", "-k", "test_equals_the_reference"]},
    1,
)


def build(sanitizer: Sanitizer) -> Path:
    """The folder that holds the package."""
    import torch

    folder = ROOT / "build" / f"sanitize-{sanitizer.name}"
    package = folder / "package/longreel"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for each in [*(ROOT / "python/longreel").iterdir(), ROOT / "triton_kernels"]:
        if each.suffix != ".so" and each.name != "__pycache__":
            (package / each.name).symlink_to(each)
    configure = [
        "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DLONGREEL_SANITIZE={sanitizer.name}",
        f"-DLONGREEL_TORCH_DIR={Path(torch.__file__).parent}",
        f"-DLONGREEL_OUTPUT={package}",
    ]  # fmt: skip
    tools = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in (configure, ["cmake", "--build", folder, "--parallel", os.environ.get("MAX_JOBS", "2")]):
        done = subprocess.run(list(map(str, command)), env=tools, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr}")
    return folder


def environment(sanitizer: Sanitizer, folder: Path) -> dict[str, str]:
    compiler = os.environ.get("CXX", "c++")
    found = [
        subprocess.run([compiler, f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True)
        for name in sanitizer.libraries
    ]
    reports = {
        name: f"{options}:log_path={folder / 'report'}" if name.endswith("_OPTIONS") else options
        for name, options in sanitizer.options.items()
    }
    return os.environ | reports | {
        "LD_PRELOAD": " ".join(os.path.realpath(each.stdout.strip()) for each in found),
        "PYTHONPATH": str(folder / "package"), "OMP_NUM_THREADS": str(sanitizer.threads), "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip


def python(sanitizer: Sanitizer, folder: Path, *arguments: str, quiet: bool = False) -> tuple[int, str]:
    """Exit code, and what the sanitizer said."""
    for old in folder.glob("report*"):
        old.unlink()
    # ThreadSanitizer's shadow has fixed places, which random addresses may take.
    fixed = ["setarch", platform.machine(), "-R"] if sanitizer.name == "thread" else []
    command = [*fixed, sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment(sanitizer, folder), capture_output=quiet, text=True)
    said = "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("report*")))
    return done.returncode, said + ((done.stdout + done.stderr) if quiet else "")


def check(sanitizer: Sanitizer, folder: Path) -> None:
    """That the instrumented libraries are the ones that Python loads, and that faults in them are found."""
    code = (
        f"from longreel import _native; assert str(_native._FOLDER) == {str(folder / 'package/longreel')!r}, _native._FOLDER;"
        "assert _native.OPS_REFUSAL is None and _native.HOST is not None, (_native.OPS_REFUSAL, _native.HOST_REFUSAL)"
    )
    failed, said = python(sanitizer, folder, "-c", code, quiet=True)
    if failed:
        sys.exit(f"{sanitizer.name}: the instrumented libraries do not load\n{said}")
    for name, word in sanitizer.planted.items():
        call = f"import ctypes; f = ctypes.CDLL({str(folder / 'planted.so')!r}).{name}; f(ctypes.c_int64(9))"
        failed, said = python(sanitizer, folder, "-c", call, quiet=True)
        if not failed or word not in said:
            sys.exit(f"{sanitizer.name}: the planted {name} is not found\n{said}")


def main() -> int:
    wanted = sys.argv[1:] or ["address", "thread"]
    for sanitizer in (ADDRESS, THREAD):
        if sanitizer.name not in wanted:
            continue
        began = time.monotonic()
        folder = build(sanitizer)
        print(f"{sanitizer.name}: built, {time.monotonic() - began:.0f} s", flush=True)
        check(sanitizer, folder)
        print(f"{sanitizer.name}: finds {', '.join(sanitizer.planted)}", flush=True)
        for what, arguments in sanitizer.tests.items():
            began = time.monotonic()
            side_by_side = ["-n", "2", "--dist", "worksteal", "--max-worker-restart", "0"]
            # Captured by its number, standard error would take the report of a process that ends there with it.
            pytest = ["-m", "pytest", "-q", "-x", "--capture=sys", *side_by_side]
            failed, said = python(sanitizer, folder, *pytest, *arguments)
            if failed or said:
                print(f"{sanitizer.name}: {what}: {'a report' if said else 'failed'}\n{said[:8000]}")
                return 1
            print(f"{sanitizer.name}: {what}: clean, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
