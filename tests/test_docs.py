"""README and docs/ say nothing that is not there: links, pages, samples, and every command's name and options."""

import doctest
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
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
SAMPLES = [page for page in PAGES if ">>> import torch" in page.read_text(encoding="utf-8")]
FENCED = re.compile(r"^```(?:bash|sh|console)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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


def commands(page: Path) -> Iterator[list[str]]:
    """Shell lines of fenced blocks, in words: without prompts, comments and what follows a pipe."""
    for block in FENCED.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\$? ?(?:[A-Z_]+=\S+ )*(longreel|make|python) ", line):
                words = shlex.split(line.removeprefix("$ ").partition(" | ")[0], comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words = words[1:]
                yield words


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
            return f"longreel {rest[0]}"
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
        return next((option for option in options if f'"{option}"' not in text and "parser" in text), None)
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
