"""Words that this project does not use, since a reader of attention kernels has others for the same: in names, and in what
is read (docs, help, errors, docstrings). Each exception stands with its reason.

Words with a plain meaning of their own beside the banned one (row, run, unit, total, work) cannot be told apart here.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Ban(NamedTuple):
    """names: parts of names in snake_case or CamelCase, and of strings of one word, such as keys of JSON. text: of prose."""

    names: frozenset[str]
    text: str
    say: str


BANS = (
    Ban(
        frozenset({"see", "sees", "seen", "saw"}),
        r"\b(?:sees|seen|saw)\b|\b(?:rows?|tokens?|queries|keys?|frames?|text) see\b|\bsee (?:one another|themselves)\b",
        "mask, masked, visible, attends to; encode",
    ),
    Ban(frozenset({"near", "far"}), r"\b(?:near|far) (?:keys?|ones)\b", "local and global keys"),
    Ban(
        frozenset({"kept"}),
        r"\b(?:what (?:is|was) kept|(?:tokens|values) (?:are |were )?kept)\b",
        "cache, cached; save, load",
    ),
    Ban(frozenset({"speak", "speaks", "spoken"}), r"\b(?:speaks?|spoken)\b", "generate; expects, has"),
    Ban(frozenset({"slopes"}), r"\bslopes\b", "dq, dk, dv, ds"),
)

# (path, name or text): why it stands.
SHIPPED = "python/longreel/"
ALLOWED = {
    ("", "text_sees_prefix"): "public since the first day, as prefix_visible_to is its newer half",
    ("", "frames_see_prefix"): "public since the first day",
    (SHIPPED + "models/voco_llama/adapter.py", "see"): "the older name of `encode`, until 0.1.0",
    (SHIPPED + "models/voco_llama/model.py", "see"): "the older name of `encode_video`, until 0.1.0",
    (SHIPPED + "report/end_to_end_table.py", "see"): "a key in files of results from before 0.1.0",
    (SHIPPED + "models/system.py", "Kept"): "the older name of `Cached`, until 0.1.0",
    (SHIPPED + "models/cost.py", "kept"): "the older name of `cached`, until 0.1.0",
    (SHIPPED + "cache/saved.py", "kept"): "the older name of `cached`, until 0.1.0",
    (SHIPPED + "layout/__init__.py", "kept"): "the older name of `cached`, until 0.1.0",
    (SHIPPED + "layout/__init__.py", "kept_runs"): "the older name of `cached_ranges`, until 0.1.0",
    (SHIPPED + "parity/golden/videoxl_memory.py", "kept"): "a tensor's name in the stored outputs",
    (SHIPPED + "ops/flash/varlen.py", "alibi_slopes"): "an argument of the flash_attn package",
    (SHIPPED + "testing/", "far"): "longreel.testing.far: data beyond 31 bits, and no key",
    (SHIPPED + "models/video_llama/prompts.py", "seen"): "a prompt, which a model reads",
    ("docs/video_llama.md", "seen"): "a question that was asked in the run that is shown",
}
# What `compress_video(keep=)` keeps of a video is no cache.
OF_COMPRESSION = (
    SHIPPED + "compression/", SHIPPED + "cli/compress.py", SHIPPED + "report/kept_picture.py", "docs/compress_video.md",
)  # fmt: skip

NAMED = ("python/longreel", "triton_kernels", "csrc", "benchmarks", "examples", ".ci")
READ = ("python/longreel", "triton_kernels", "examples")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "docs")
PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
NATIVE = re.compile(r'//[^\n]*|"(?:[^"\\\n]|\\.)*"|([A-Za-z_]\w*)')


def names(root: Path) -> list[str]:
    """Banned parts of names."""
    return [
        f"{path}:{line}: {name}, say {ban.say}"
        for path, file in _files(root, NAMED)
        for name, line in sorted(set(_names(file)))
        for ban in BANS
        if ban.names & {part.lower() for part in PARTS.findall(name)} and not _allowed(path, name)
    ]


def texts(root: Path) -> list[str]:
    """Banned words of docs, help, errors and docstrings."""
    found = []
    for path, lines in _prose(root):
        for number, line in lines:
            for ban in BANS:
                found += [
                    f"{path}:{number}: {match[0]}, say {ban.say}"
                    for match in re.finditer(ban.text, line)
                    if not _allowed(path, match[0])
                ]
    return found


def _allowed(path: str, name: str) -> bool:
    of_compression = "kept" in name and path.startswith(OF_COMPRESSION)
    return of_compression or any(path.startswith(where) and name == what for where, what in ALLOWED)


def _files(root: Path, folders: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in (".py", ".h", ".cuh", ".cpp", ".cu"):
                yield file.relative_to(root).as_posix(), file


def _names(file: Path) -> Iterator[tuple[str, int]]:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        for number, line in enumerate(text.splitlines(), 1):
            yield from ((match[1], number) for match in NATIVE.finditer(line) if match[1])
        return
    for node in ast.walk(ast.parse(text)):
        at = getattr(node, "lineno", 0)
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield name, at
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value, at


def _prose(root: Path) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    for path, file in _files(root, READ):
        if file.suffix == ".py":
            text = file.read_text(encoding="utf-8")
            source, inside = text.splitlines(), set[int]()
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    inside |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            yield path, [(number, source[number - 1]) for number in sorted(inside)]
    for page in PAGES:
        whole = root / page
        for file in sorted(whole.rglob("*")) if whole.is_dir() else [whole]:
            if file.suffix in (".md", ".svg"):
                yield (
                    file.relative_to(root).as_posix(),
                    list(enumerate(file.read_text(encoding="utf-8").splitlines(), 1)),
                )
