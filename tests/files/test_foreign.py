"""The one reader of foreign JSON: lines, and the forms of what they hold."""

from pathlib import Path
from typing import Any

import pytest

from longreel.files.foreign import ForeignError, parsed, read_json_lines
from longreel.files.forms import COUNT, NUMBER, POSITIVE, Number, check_form

pytestmark = pytest.mark.fast


def test_lines_end_where_files_have_ends(tmp_path: Path) -> None:
    """And nowhere else: JSON may hold other separators as they stand."""
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": "x\u2028y\x85"}\r\n{"b": 1}'.encode())
    assert list(read_json_lines(path)) == [(f"{path}: line 1", {"a": "x\u2028y\x85"}), (f"{path}: line 2", {"b": 1})]


@pytest.mark.parametrize(
    "line", ["", "[]", "NaN", '{"a": 1e999}', '{"a": 1, "a": 2}', "[" * 10**5, "\0", "{", "1" * 5000]
)
def test_a_line_that_is_no_table(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{{}}\n{line}\n{{}}\n")
    with pytest.raises(ForeignError, match="line 2 is no table of JSON") as refused:
        list(read_json_lines(path))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
def test_json_is_utf_8(encoding: str) -> None:
    assert parsed('{"a": 1}'.encode("utf-8-sig")) == {"a": 1}
    with pytest.raises(ForeignError, match=r"is no (text|JSON)"):
        parsed('{"a": 1}'.encode(encoding))


FORM: Any = {
    "count": COUNT, "time": POSITIVE, "maybe?": (type(None), str), "kind": frozenset({"x", "y"}), "list": [NUMBER],
    "table": {"*": Number(least=0)},
}  # fmt: skip
GOOD: dict[str, Any] = {"count": 0, "time": 0.5, "kind": "x", "list": [1, -2.5], "table": {"a": 0}, "more": [{}]}


def test_what_has_the_form_is_taken() -> None:
    check_form(GOOD, FORM, "it")
    check_form(GOOD | {"maybe": None}, FORM, "it")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"count": -1}, "'count' of it is -1, not a whole number from 0 on"),
        ({"count": True}, "'count' of it is True, not a whole number"),
        ({"count": 1.0}, "'count' of it is 1.0, not a whole number"),
        ({"time": 0}, "'time' of it is 0, not a number above 0"),
        ({"time": 10**400}, "'time' of it is 1000"),
        ({"maybe": 3}, "'maybe' of it is 3, not a text"),
        ({"kind": ["x"]}, "'kind' of it is ['x'], not one of x, y"),
        ({"list": ["1"]}, "an entry of 'list' of it is '1', not a number"),
        ({"list": {}}, "'list' of it is {}, not a list"),
        ({"table": {"a": -1}}, "'a' of 'table' of it is -1, not a number from 0 on"),
        ({"table": 7}, "'table' of it is 7, not a table of names"),
    ],
)
def test_what_has_not(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ForeignError) as refused:
        check_form(GOOD | wrong, FORM, "it")
    assert str(refused.value).startswith(said)


def test_what_is_absent() -> None:
    with pytest.raises(ForeignError, match="it has no 'time'"):
        check_form({name: value for name, value in GOOD.items() if name != "time"}, FORM, "it")
