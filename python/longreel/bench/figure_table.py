"""A table on the terminal whose figures are whole: a cut one would be another figure."""

from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

_ANY_WIDTH = 10_000


class FigureTable(Table):
    """As wide as its figures need, also where the console is narrower; to be printed with `crop=False`."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given, title_justify="left", pad_edge=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = self.__rich_measure__(console, options.update(max_width=_ANY_WIDTH)).maximum
        yield from super().__rich_console__(console, options.update(max_width=max(options.max_width, needed)))
