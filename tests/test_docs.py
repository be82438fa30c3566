"""README and docs/ say nothing that is not there: links, pages, samples, and every command's name and options."""

import doctest
import functools
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

import longreel
from longreel.cli.main import app

pytestmark = pytest.mark.fast
ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
SAMPLES = [page for page in PAGES if ">>> import torch" in page.read_text(encoding="utf-8")]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("", "bash", "sh", "console")


def slug(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in map(slug, headings), f"{page.name}: {target}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 90


def test_every_page_is_in_the_sites_list() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert sorted(re.findall(r": (\w+\.md)$", nav, re.MULTILINE)) == sorted(
        path.name for path in (ROOT / "docs").glob("*.md")
    )


def test_every_op_has_a_page_and_a_place_in_the_reference() -> None:
    nav, reference = (ROOT / "mkdocs.yml").read_text(), (ROOT / "docs/api.md").read_text()
    for op in longreel.ops.__all__:
        if op.islower() and callable(getattr(longreel, op)):
            assert re.search(rf"\b{op}\b", reference), op
            assert op == "vst_project" or re.search(rf"\b{op}\b.*: \w+\.md", nav), op


@pytest.mark.parametrize("page", SAMPLES, ids=lambda page: page.stem)
def test_samples_give_what_stands_below_them(page: Path) -> None:
    tried = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS, encoding="utf-8")
    assert tried.attempted >= 3
    assert tried.failed == 0


TOOLS = r"(?:longreel|make|python|torchrun|pip|uv|pytest|pre-commit)"
LINE = re.compile(rf"\$? ?(?:[A-Z_]+=\S+ )*{TOOLS} ")
INLINE = re.compile(rf"`((?:[A-Z_]+=\S+ )*{TOOLS} [^`]+)`")


def commands(page: Path) -> Iterator[list[str]]:
    """Shell lines of fenced blocks, and what of them the text has between its words, in words: without prompts, comments and
    what follows a pipe."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for language, block in FENCED.findall(text) if language in SHELL]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if LINE.match(line)]
    prose = FENCED.sub("", text)
    for line in (*lines, *(" ".join(found.split()) for found in INLINE.findall(prose))):
        words = shlex.split(line.removeprefix("$ ").partition(" | ")[0], comments=True)
        while re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        # What torchrun starts is a command too.
        if words[0] == "torchrun" and "longreel" in words:
            words = words[words.index("longreel") :]
        yield words


def takes(source: str, option: str) -> bool:
    """Whether a script has this option, by argparse or as an argument of typer's."""
    return f'"{option}"' in source or re.search(rf"\b{option[2:].replace('-', '_')}: ", source) is not None


def unknown(words: list[str]) -> str | None:
    """What of a command line is not there."""
    tool, rest = words[0], words[1:]
    # What follows a lone -- is handed on.
    own = rest[: rest.index("--")] if "--" in rest else rest
    options = [word.partition("=")[0] for word in own if re.match(r"--[a-z]", word)]
    if tool == "longreel":
        known = typer.main.get_command(app)
        assert isinstance(known, click.Group) or hasattr(known, "commands")
        if rest[0].startswith("-"):
            return None if rest[0] in ("--help", "--version") else rest[0]
        command = known.commands.get(rest[0])
        if command is None:
            # the beginning of a message
            return None if rest[0] == "needs" else f"longreel {rest[0]}"
        there = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
            "--help"
        }
        return next((option for option in options if option not in there), None)
    if tool == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next((word for word in rest if "=" not in word and word not in targets), None)
    if rest[0].endswith(".py"):
        script = ROOT / rest[0]
        if not script.exists():
            return rest[0]
        text = script.read_text()
        return next((option for option in options if not takes(text, option)), None)
    if rest[0] == "-m" and tool == "python":
        return None if importlib.util.find_spec(rest[1]) else rest[1]
    return None


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_are_there(page: Path) -> None:
    assert [(shlex.join(words), wrong) for words in commands(page) if (wrong := unknown(words))] == []


def test_a_command_that_is_not_there_is_found() -> None:
    assert sum(1 for page in PAGES for _ in commands(page)) > 50
    assert unknown(shlex.split("longreel run V --no-such")) == "--no-such"
    assert unknown(shlex.split("longreel runn V")) == "longreel runn"
    assert unknown(shlex.split("make no-such")) == "no-such"
    assert unknown(shlex.split("python benchmarks/soak.py --no-such")) == "--no-such"
    assert unknown(shlex.split("python benchmarks/no_such.py")) == "benchmarks/no_such.py"
    assert unknown(shlex.split("python benchmarks/distillation.py --no-such")) == "--no-such"
    assert unknown(shlex.split("python -m longreel.no_such")) == "longreel.no_such"


def test_commands_are_found_in_blocks_and_in_the_text(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "As `longreel plan\n--hours 1` says.\n\n```\nOMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m longreel run V\n```\n"
    )
    assert list(commands(page)) == [["longreel", "run", "V"], ["longreel", "plan", "--hours", "1"]]


def missing(text: str) -> list[str]:
    """Names of longreel, options and files that a page has in its text and that are not there."""
    found = [name for name in re.findall(r"\blongreel(?:\.[A-Za-z_]\w*)+", text) if not resolves(name)]
    for code in re.findall(r"`([^`\n]+)`", text):
        own = re.findall(r"(?<![\w-])--[a-z][\w-]*", "" if re.match("torchrun|uv|--max-restarts", code) else code)
        found += [option for option in own if option not in OPTIONS and not takes(scripts(), option)]
    folders = r"tests|benchmarks|python|csrc|triton_kernels|examples|docs|requirements|\.ci"
    paths = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./*-]*\w)", text)
    return found + [path for path in paths if not any(ROOT.glob(path)) and not any(ROOT.glob(f"{path}*"))]


def resolves(name: str) -> bool:
    parts, at = name.split("."), longreel
    for count, part in enumerate(parts[1:], 2):
        if not hasattr(at, part):
            try:
                importlib.import_module(".".join(parts[:count]))
            except ImportError:
                return False
        at = getattr(at, part)
    return True


GROUP = typer.main.get_command(app)
OPTIONS = {
    name
    for command in GROUP.commands.values()
    for each in command.params
    for name in (*each.opts, *each.secondary_opts)
} | {"--help", "--version"}  # type: ignore[attr-defined]


@functools.cache
def scripts() -> str:
    """The sources whose options a page may name beside the command's."""
    files = [
        *ROOT.glob("benchmarks/*.py"),
        *ROOT.glob("benchmarks/needle/*.py"),
        *ROOT.glob(".ci/*.py"),
        ROOT / "tests/budgets/update.py",
    ]
    return "".join(file.read_text(encoding="utf-8") for file in files)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_names_options_and_files_are_there(page: Path) -> None:
    assert missing(page.read_text(encoding="utf-8")) == []


def test_what_is_not_there_is_found() -> None:
    text = "`longreel.layout.no_such` with `--no-such 3`, see tests/no_such.py, longreel.layout.draw and `--ratio`"
    assert missing(text) == ["longreel.layout.no_such", "--no-such", "tests/no_such.py"]
