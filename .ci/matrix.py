"""`make matrix`: the oldest and the newest of what this package runs beside, each in a folder of its own, and what was covered.

    python .ci/matrix.py [--folder DIR] [--only transformers|torch|triton]

transformers: tests/integrations and tests/cache on the oldest that `longreel._transformers` names and on the newest there is.
torch: 2.10 and the newest, with which the native libraries are built, imported, and the fast part of the op tests is run, with
whole graphs of a transformers model under a planned layout (tests/integrations/test_context.py).
triton: 3.6, with which every kernel is compiled ahead of time, within a budget of its own, and part of them is interpreted; the
newest is the project's own.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = "2.10.0"
OLDEST_TRITON = "3.6"
TESTS = {
    "transformers": [["tests/integrations", "tests/cache"]],
    "torch": [["-m", "fast", "tests/ops"], ["tests/integrations/test_context.py"]],
    "triton": [
        ["tests/ops/test_triton_aot.py", "tests/ops/test_triton_launches.py", "tests/ops/test_emulated_gluon.py"]
    ],
    "interpreted": [
        ["tests/ops/interpreted_attention.py", "tests/ops/interpreted_vst.py", "tests/ops/interpreted_kernels.py"]
    ],
}


def install(folder: Path, *requirements: str) -> bool:
    """Into a folder that goes before this environment's packages; kept for the next time."""
    done = folder / ".installed"
    if done.exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), *requirements]
    if subprocess.run(command, cwd=ROOT).returncode:
        return False
    done.touch()
    return True


def run(folder: Path, tree: Path, *command: str, **env: str) -> bool:
    env["PYTHONPATH"] = os.pathsep.join([str(folder), str(tree / "python"), str(tree)])
    return subprocess.run([sys.executable, *command], cwd=tree, env=os.environ | env).returncode == 0


def tested(folder: Path, tree: Path, part: str, **env: str) -> bool:
    return all(run(folder, tree, "-m", "pytest", "-q", *arguments, **env) for arguments in TESTS[part])


def said(part: str) -> str:
    return ", ".join(f"pytest {' '.join(arguments)}" for arguments in TESTS[part])


def version(folder: Path, name: str) -> str:
    code = f"import {name}; print({name}.__version__)"
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    return found.stdout.strip() or "not importable"


def transformers(folder: Path, wanted: str) -> tuple[str, bool]:
    place = folder / f"transformers-{wanted or 'newest'}"
    requirement = f"transformers=={wanted}.*" if wanted else "transformers"
    if not install(place, requirement):
        return f"transformers {wanted or 'newest'}", False
    return f"transformers {version(place, 'transformers')}: {said('transformers')}", tested(place, ROOT, "transformers")


def torch(folder: Path, wanted: str) -> tuple[str, bool]:
    place, tree = folder / f"torch-{wanted or 'newest'}", folder / f"tree-{wanted or 'newest'}"
    if not install(place, f"torch=={wanted}" if wanted else "torch", "numpy"):
        return f"torch {wanted or 'newest'}", False
    # A copy of what git knows, so that nothing that is built here is touched.
    shutil.rmtree(tree, ignore_errors=True)
    files = (
        subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    )
    for file in filter(None, files):
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, tree / file)
    done = (
        run(place, tree, "setup.py", "-q", "build_ext", "--inplace")
        and run(place, tree, "-c", "import longreel, torch; print('longreel with torch', torch.__version__)")
        and tested(place, tree, "torch")
    )
    return f"torch {version(place, 'torch')}: build, import, {said('torch')}", done


def triton(folder: Path, wanted: str) -> tuple[str, bool]:
    place = folder / f"triton-{wanted}"
    if not install(place, f"triton=={wanted}.*"):
        return f"triton {wanted}", False
    what = f"triton {version(place, 'triton')}: {said('triton')}, TRITON_INTERPRET=1 {said('interpreted')}"
    # both: the one says nothing of the other
    done = [tested(place, ROOT, "triton"), tested(place, ROOT, "interpreted", TRITON_INTERPRET="1")]
    return what, all(done)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/matrix")
    parser.add_argument("--only", choices=["transformers", "torch", "triton"])
    options = parser.parse_args()
    folder = options.folder.resolve()
    sys.path.insert(0, str(ROOT / "python/longreel"))
    from _transformers import OLDEST

    covered = []
    if options.only in (None, "transformers"):
        covered += [transformers(folder, wanted) for wanted in (".".join(map(str, OLDEST)), "")]
    if options.only in (None, "torch"):
        covered += [torch(folder, wanted) for wanted in (OLDEST_TORCH, "")]
    if options.only in (None, "triton"):
        covered += [triton(folder, OLDEST_TRITON)]
    print("\ncovered:")
    for what, done in covered:
        print(f"  {'passed' if done else 'FAILED'}  {what}")
    return int(not all(done for _, done in covered))


if __name__ == "__main__":
    sys.exit(main())
