"""What a command says: results, progress, one-line warnings and errors."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from longreel.backends import BackendError
from longreel.cli.ends import Ended, end_if_told, ended_by_signals
from longreel.cli.streams import NO_READER
from longreel.files.foreign import first_line
from longreel.measure.memory import no_room

# The exit code of a run that does not fit in memory, a GPU's or what a dense mask may take.
NO_ROOM = 3
_LONGEST = 1000
_MISSING = "needs packages that are not installed ({}): pip install 'longreel[video]'"


def consoles() -> tuple[Console, Console]:
    """For results and for progress."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100
    return Console(width=wide, highlight=False), Console(stderr=True)


@contextlib.contextmanager
def progress(
    log: Console, expected: int | None, what: str = "frames", *, show: bool = True
) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, nothing where that is not a terminal."""
    bar = Progress(
        TextColumn(f"[bold]{what}"), BarColumn(None), MofNCompleteColumn(), TextColumn("elapsed"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=log, disable=not (show and log.is_terminal), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=expected)

        def told(done: int) -> None:
            end_if_told()
            bar.update(task, completed=done)

        yield told


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Damage that was passed over: one line on stderr, and on."""
    shown = warnings.showwarning

    def one_line(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if category.__name__ == "MediaWarning":
            print(f"warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *rest, **named)

    warnings.showwarning = one_line
    try:
        yield
    finally:
        warnings.showwarning = shown


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What the user can mend: one line on stderr and exit code 2, or `NO_ROOM`; warnings as `one_line_warnings`; signals as
    `ended_by_signals`."""
    try:
        with ended_by_signals(), one_line_warnings():
            yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("longreel"):
            raise
        _stop(_MISSING.format(error.name))
    except ImportError as error:
        if no_room(error) is not None:
            _stop("out of memory", NO_ROOM)
        # One of ours, which says what is asked for, has no name.
        if error.name is not None:
            raise
        _stop(str(error))
    except BrokenPipeError:
        raise typer.Exit(NO_READER) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(130) from None
    except Ended as end:
        print(f"ended by {end}", file=sys.stderr)
        raise typer.Exit(end.code) from None
    except Exception as error:
        short = no_room(error)
        if short is not None:
            _stop(short, NO_ROOM)
        # What the kernels say of a set of instructions that is not there.
        if isinstance(error, RuntimeError) and str(error).startswith("LONGREEL_CPU_ISA="):
            _stop(first_line(error))
        if not isinstance(error, (ValueError, BackendError, OSError)):
            raise
        _stop(str(error))


def _stop(reason: str, code: int = 2) -> None:
    line = " ".join(reason.split())
    # What others wrote may be quoted in it. Where it cannot be said, the exit code says it.
    with contextlib.suppress(OSError):
        print(f"longreel: {line if len(line) <= _LONGEST else line[:_LONGEST] + '...'}", file=sys.stderr)
    raise typer.Exit(code) from None
