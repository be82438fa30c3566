"""What a command writes to: closed, of an encoding that lacks characters, full, or left by its reader."""

import codecs
import os
import sys
from typing import TextIO

# The exit code where the reader left (`| head`), as rich and typer end then.
NO_READER = 1
# In place of a character that an encoding lacks, as wide as it.
_PLAIN = {
    "█": "#", "–": "-", "—": "-", "×": "x", "…": ".", "•": "*", "‘": "'", "’": "'", "“": '"', "”": '"', "≥": ">", "≤": "<",
    "━": "-", "─": "-", "╸": "-", "╺": "-",
}  # fmt: skip
_HANDLER = "longreel-plain"


def prepare() -> None:
    """Every character can be written to stdout and stderr, and both are there."""
    codecs.register_error(_HANDLER, _plain)
    sys.stdout, sys.stderr = _prepared(sys.stdout), _prepared(sys.stderr)


def finish(code: int) -> int:
    """What is left to write is written: the code to end with, `code` unless that fails."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Nothing more goes there, when the interpreter ends neither.
        _silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return NO_READER
        if not code:
            print(f"longreel: the results cannot be written ({error.strerror})", file=sys.stderr)
            code = 2
    try:
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)
    return code


def _prepared(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=_HANDLER)
    return stream


def _silence(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking), error.end
