"""Processes of one command: what goes wrong in one of them is said once, and ends all with its exit code."""

import contextlib
from collections.abc import Iterator

import typer

from longreel.cli.console import NO_ROOM
from longreel.cli.ends import Ended, end_if_told
from longreel.measure.memory import no_room
from longreel.models.processes import OtherFailedError, Processes
from longreel.ranks import Rank


@contextlib.contextmanager
def together(rank: Rank) -> Iterator[Processes | None]:
    """None where there is one process."""
    if rank.count == 1:
        yield None
        return
    processes = Processes(rank, end_if_told)
    try:
        yield processes
    except OtherFailedError as error:
        raise typer.Exit(error.code) from None
    except Ended as end:
        # torchrun ends all others when one fails.
        if not processes.fail(end.code):
            raise typer.Exit(end.code) from None
        raise
    except Exception as error:
        if not processes.fail(NO_ROOM if no_room(error) is not None else 2):
            raise typer.Exit(2) from None
        processes.farewell()
        raise
