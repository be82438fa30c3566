"""The words of this project: none of the banned ones in names, help, errors, docstrings and docs. A planted one is found."""

import shutil
from collections.abc import Callable
from pathlib import Path

import house_words
import pytest

pytestmark = pytest.mark.fast
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("check", [house_words.names, house_words.texts], ids=lambda check: check.__name__)
def test_words(check: Callable[[Path], list[str]]) -> None:
    assert check(ROOT) == []


PLANTED = [
    (house_words.names, "python/longreel/layout/dense.py", "def f(seen_keys): pass", "seen_keys"),
    (house_words.names, "python/longreel/backends.py", 'x = f"{nearFar}"', "nearFar"),
    (house_words.names, "python/longreel/models/voco_llama/system.py", 'stage = "see"', "see"),
    (house_words.names, "python/longreel/models/record.py", "tokens_kept = 1", "tokens_kept"),
    (house_words.names, "csrc/layout/planner.h", "int far_keys = 1;  // seen", "far_keys"),
    (house_words.texts, "python/longreel/cli/run.py", 'HELP = "tokens kept at the end"', "tokens kept"),
    (house_words.texts, "python/longreel/layout/segments.py", 'raise ValueError("the layout speaks of 12 keys")', "speaks"),
    (house_words.texts, "docs/attention.md", "A row sees its frame.", "sees"),
    (house_words.texts, "docs/run.md", "Frames of which all tokens see nothing.", "tokens see"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "file", "line", "says"), PLANTED, ids=[case[3] for case in PLANTED])
def test_a_planted_word_is_found(
    tmp_path: Path, check: Callable[[Path], list[str]], file: str, line: str, says: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    shutil.copy(ROOT / file, path)
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"):
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).touch()
    with path.open("a") as out:
        out.write(f"\n{line}\n")
    (found,) = check(tmp_path)
    assert found.startswith(f"{file}:")
    assert f": {says}, say " in found


def test_every_exception_is_needed() -> None:
    """One whose word is gone is dropped."""
    for where, what in house_words.ALLOWED:
        paths = (
            [ROOT / where] if where and not where.endswith("/") else list((ROOT / (where or "python")).rglob("*.py"))
        )
        assert any(what in path.read_text(encoding="utf-8") for path in paths), (where, what)
