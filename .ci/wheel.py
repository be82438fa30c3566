"""`make wheel`: one wheel for every Python of this platform into dist/, checked in clean environments.

    python .ci/wheel.py [--cuda auto|0|1] [--out dist] [--check WHEEL] [--torch 2.10.0 --torch ''] [--folder build/wheel]

CUDA kernels for sm_80, sm_90a and sm_100 are in it where nvcc is there (TORCH_CUDA_ARCH_LIST names others). The tag is the
oldest manylinux whose symbols suffice: build in a manylinux_2_28 container for a wheel that goes as far back as torch's own.
Checked with the oldest torch and the newest, each in an environment that holds nothing else: installed beside torch in under
20 s with all it needs, once that is downloaded, `longreel doctor` has nothing to say, README's snippet runs. The 20 s are by
a clock on the wall, of a machine that does nothing else. Where others took more than a tenth of the processors, a slower one
is tried again, three times in all, each in a new environment; what pip took of the processors itself stands beside.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH, NEWEST_TORCH = "2.10.0", ""
ARCHS = "8.0;9.0a;10.0+PTX"
# What stands in a torch and is no part of this wheel.
TORCHS = ("libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so", "libc10.so", "libc10_cuda.so", "libgomp.so.1")
SECONDS, TRIES, BUSY = 20, 3, 0.1


class Took(NamedTuple):
    """wall, cpu: seconds of a command, and of all the processes it began. others: share of the machine that none of them took."""

    wall: float
    cpu: float
    others: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} s of processors, others took {self.others:.0%} of the machine)"

    def undecided(self) -> bool:
        """Whether it was too slow and may not have been its own fault."""
        return self.wall >= SECONDS > self.cpu and self.others > BUSY


def run(*command: str | Path, **given: object) -> None:
    subprocess.run(list(map(str, command)), check=True, **given)  # type: ignore[call-overload]


def busy() -> tuple[float, float]:
    """(processor seconds of the machine, those in which it did something) since it began. Linux."""
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    each = os.sysconf("SC_CLK_TCK")
    return sum(ticks) / each, (sum(ticks) - ticks[3] - ticks[4]) / each


def timed(*command: str | Path, **given: object) -> Took:
    """Runs a command, by the clock and by the processors."""

    def children() -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime

    began, used, (whole, before) = time.perf_counter(), children(), busy()
    run(*command, **given)
    wall, cpu, (end, after) = time.perf_counter() - began, children() - used, busy()
    return Took(wall, cpu, max(0.0, after - before - cpu) / max(end - whole, 1e-9))


def has_nvcc() -> bool:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") is not None or Path(home, "bin/nvcc").exists()


def build(folder: Path, cuda: str) -> Path:
    """The wheel as setup.py makes it."""
    raw = folder / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    wanted = str(int(has_nvcc())) if cuda == "auto" else cuda
    env = {"TORCH_CUDA_ARCH_LIST": ARCHS} | os.environ | {"LONGREEL_NATIVE": "1", "LONGREEL_CUDA": wanted}
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", raw, ROOT, env=env)
    (wheel,) = raw.glob("*.whl")
    return wheel


def repaired(wheel: Path, out: Path) -> Path:
    """With the tag of the oldest manylinux that has the symbols it uses; torch's libraries stay torch's."""
    out.mkdir(parents=True, exist_ok=True)
    before = set(out.glob("*.whl"))
    excluded = [word for name in TORCHS for word in ("--exclude", name)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", str(out), str(wheel)]
    subprocess.run(command, check=True, env=os.environ | {"PATH": path})
    made = set(out.glob("*.whl")) - before or {max(out.glob("*.whl"), key=lambda path: path.stat().st_mtime)}
    (fixed,) = made
    return fixed


def faults(wheel: Path) -> list[str]:
    """What is wrong with a finished wheel, from its name and its contents."""
    found = []
    if not re.search(r"-py3-none-manylinux_2_\d+_\w+\.whl$", wheel.name):
        found.append(f"{wheel.name}: the tag is not py3-none-manylinux")
    names = zipfile.ZipFile(wheel).namelist()
    libraries = {name for name in names if re.search(r"\.so(\.|$)", name)}
    if libraries != {"longreel/_ops.so", "longreel/_host.so"}:
        found.append(f"its libraries are {sorted(libraries)}")
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if tops != {"longreel"}:
        found.append(f"its top level is {sorted(tops)}")
    return found


def environment(folder: Path, torch: str) -> Path:
    """A new environment with nothing but this torch, which is installed beside it once; whatever stood there goes."""
    place = folder / f"torch-{torch or 'newest'}"
    if not (place / ".installed").exists():
        named = f"torch=={torch}" if torch else "torch"
        run(sys.executable, "-m", "pip", "install", "-q", "--target", place, named)
        (place / ".installed").touch()
    home = folder / f"env-{torch or 'newest'}"
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    (packages,) = home.glob("lib/python3*/site-packages")
    # pip finds a torch that stands there, and leaves it.
    (packages / "torch.pth").write_text(f"{place.resolve()}\n")
    return home


def snippet() -> str:
    """README's Python."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, "README has no Python"
    return found[1]


def installed(wheel: Path, folder: Path, torch: str) -> tuple[Path, Took, str]:
    """The wheel in a new environment, how long pip took, and what came along.

    What the network does is timed apart: what comes along beside torch, downloaded; and then what pip does with it.
    """
    home, packages, env = environment(folder, torch), folder / f"beside-{torch or 'newest'}", clean()
    shutil.rmtree(packages, ignore_errors=True)
    pip = (home / "bin/python", "-m", "pip")
    began = time.perf_counter()
    run(*pip, "install", "-q", "--dry-run", "--report", home / "wanted.json", wheel, env=env, cwd=home)
    wanted = [each["metadata"] for each in json.loads((home / "wanted.json").read_text())["install"]]
    others = [f"{each['name']}=={each['version']}" for each in wanted if each["name"] != "longreel"]
    assert not any(name.startswith(("torch==", "nvidia")) for name in others), others
    run(*pip, "download", "-q", "--no-deps", "-d", packages, *others, env=env, cwd=home)
    downloaded = time.perf_counter() - began
    for left in reversed(range(TRIES)):
        took = timed(*pip, "install", "-q", "--no-index", "--find-links", packages, wheel, env=env, cwd=home)
        if not took.undecided() or not left:
            break
        print(f"pip install: {took}; once more", flush=True)
        environment(folder, torch)
    return home, took, f"{len(others)} packages with it (found and downloaded in {downloaded:.1f} s)"


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def check(wheel: Path, folder: Path, torch: str) -> str:
    """Raises where something is wrong; a line of what was found."""
    home, took, along = installed(wheel, folder, torch)
    env, python = clean(), home / "bin/python"
    said = subprocess.run(
        [home / "bin/longreel", "doctor", "--json"], env=env, cwd=home, capture_output=True, text=True, check=True
    )
    found = json.loads(said.stdout)
    assert found["native"]["problem"] is None, found["native"]
    unkind = [line for line in found["advice"] if not line.startswith(("To run on video files", "This torch has CUDA"))]
    assert unkind in ([], ["Nothing to do: every kernel that this machine can run is there."]), unkind
    cpu = {op: rows["cpu"].get("cpu", "no row") for op, rows in found["ops"].items()}
    assert not any(cpu.values()), cpu
    run(python, "-m", "pip", "install", "-q", f"{wheel}[video]", env=env, cwd=home)
    run(python, "-W", "error::RuntimeWarning", "-c", snippet(), env=env, cwd=home)
    assert took.wall < SECONDS, (
        f"pip install took {took} beside torch{' in each of 3 tries' if took.undecided() else ''}"
    )
    built = found["native"]["build"]
    by = f"built with torch {built['torch']}, CUDA {built['cuda']}"
    return f"torch {found['torch']}: installed in {took} beside it, {along}; {by}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", choices=["auto", "0", "1"], default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/wheel")
    parser.add_argument("--check", type=Path, help="check this wheel, build none")
    parser.add_argument(
        "--torch", action="append", help="versions to check with, '' is the newest; default: oldest, newest"
    )
    options = parser.parse_args()
    folder = options.folder.resolve()
    wheel = (options.check or repaired(build(folder, options.cuda), options.out)).resolve()
    print(f"{wheel.name}, {wheel.stat().st_size / 2**20:.1f} MiB")
    if wrong := faults(wheel):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    for torch in options.torch or [OLDEST_TORCH, NEWEST_TORCH]:
        print(check(wheel, folder, torch), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
