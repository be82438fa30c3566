"""Files that a command writes: refused before an hour of work, not after it."""

import json
import os
from pathlib import Path
from typing import Any

from longreel.files.output import append_line


def check_output(path: Path | None, *suffixes: str) -> None:
    """ValueError where nothing can be written, or the name has another ending."""
    if path is None:
        return
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{path}: its name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: cannot be written there, {path.parent} is no folder")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; allowed: a file's name")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: cannot be written there, {path.parent} is not yours to write in")


def check_apart(inputs: list[Path], **outputs: Path | None) -> None:
    """ValueError where an option's file is an input, or another option's, under whatever name."""
    taken = [("the input", path) for path in inputs]
    for option, path in outputs.items():
        if path is None:
            continue
        for whose, other in taken:
            if _same_file(path, other):
                raise ValueError(f"--{option} {path}: is the file of {whose}, give it one of its own")
        taken.append((f"--{option}", path))


def _same_file(a: Path, b: Path) -> bool:
    # Links that lead nowhere yet have a real path, hard links have one file.
    return os.path.realpath(a) == os.path.realpath(b) or (a.exists() and b.exists() and a.samefile(b))


def append(path: Path, line: dict[str, Any]) -> None:
    """One line of JSON more."""
    append_line(path, json.dumps(line))
