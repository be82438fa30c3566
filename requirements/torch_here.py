"""Which torch there is to build against, and whether it will do: asked without setuptools, before anything is downloaded."""

import importlib.util
import os
import re
import site
import sys
import sysconfig
from pathlib import Path

OLDEST_TORCH = (2, 10)


class Refused(SystemExit):
    """No build: one line says why."""

    def __init__(self, why: str) -> None:
        super().__init__(f"error: {why}")


def choice(name: str) -> str:
    value = os.environ.get(name, "auto")
    if value not in ("auto", "0", "1"):
        raise Refused(f"{name}={value!r}: allowed are auto, 0 and 1")
    return value


def native_wanted() -> bool:
    """Whether this build has native libraries: on Linux unless LONGREEL_NATIVE=0."""
    wanted = choice("LONGREEL_NATIVE")
    return wanted == "1" or (wanted == "auto" and sys.platform == "linux")


def torch_dir() -> Path:
    """The torch to build against: the one of this interpreter's environment, or of the environment that asked for this build,
    which build isolation hides from `import`. An older one is refused before anything is compiled."""
    named = os.environ.get("LONGREEL_TORCH_DIR")
    spec = importlib.util.find_spec("torch")
    places = [Path(named)] if named else []
    if not named:
        places += [Path(spec.origin).parent] if spec and spec.origin else []
        environments = [sys.prefix, os.environ.get("VIRTUAL_ENV"), *asking_environments(), sys.base_prefix]
        schemes = [
            sysconfig.get_path(key, vars={"base": e, "platbase": e})
            for e in environments
            if e
            for key in ("platlib", "purelib")
        ]
        places += [Path(p) / "torch" for p in (*schemes, *site.getsitepackages(), site.getusersitepackages())]
    for place in places:
        version = torch_version(place)
        if version is None:
            continue
        if tuple(map(int, version.split(".")[:2])) < OLDEST_TORCH:
            raise Refused(
                f"longreel needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, {place} is {version}: upgrade torch first"
            )
        if (place / "include/torch/csrc/stable/library.h").exists():
            return place
    raise Refused(
        "longreel's native libraries need a torch >= 2.10 to build against and none was found"
        f" (looked in {', '.join(dict.fromkeys(map(str, places)))}). Install torch first, or name its folder with"
        " LONGREEL_TORCH_DIR, or build without native libraries: LONGREEL_NATIVE=0"
    )


def torch_version(place: Path) -> str | None:
    """Of a torch package, without importing it."""
    try:
        found = re.search(r"__version__ = ['\"](\d+\.\d+[^'\"]*)", (place / "version.py").read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1] if found else None


def asking_environments() -> list[str]:
    """Environments of the processes that started this one, as their command lines name them (`uv pip install --python ENV`,
    `ENV/bin/python -m build`): neither tells an isolated build in another way. Linux."""
    found, process = list[str](), os.getppid()
    while process > 1:
        folder = Path("/proc", str(process))
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
            working = Path(os.readlink(folder / "cwd"))
            process = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
        for word in words:
            path = working / word.removeprefix("--python=")
            # Not Path.is_file, which raises for a word too long for a file's name, such as a whole `bash -c` script.
            found += [str(each) for each in (path, path.parent.parent) if word and os.path.isfile(each / "pyvenv.cfg")]
    return found
