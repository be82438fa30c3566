"""A plan on the terminal: what is cached, memory by what takes it, time by stage, what fits, and what to change."""

from rich import box
from rich.console import Console

from longreel.bench.figure_table import FigureTable
from longreel.models.planning import Plan
from longreel.report.stages import short

_GIB, _MIB = 2**30, 2**20


def show(made: Plan, console: Console, measured_room: bool = False) -> None:
    """measured_room: the room is what is free on this machine."""
    cost, where = made.cost, "GPU" if made.gpu else "CPU"
    head = f"{made.system}, preset {made.preset}: {made.frames:,} frames, {made.chunk} at a time, {made.dtype} on a {where}"
    console.print(head, style="bold", soft_wrap=True)
    memory = _table("memory", "share")
    for name, size in (
        ("weights", made.weights),
        ("tensors at the peak", cost.live),
        *([] if made.gpu else [("process, decoder, pictures", made.process)]),
    ):
        memory.add_row(name, _size(size), f"{size / made.peak:.1%}")
    memory.add_section()
    memory.add_row("peak memory", _size(made.peak), "", style="bold")
    console.print(memory, crop=False)
    console.print(f"cached         {_tokens(made)}")
    console.print(f"keys, values   {_size(cost.cache)} while a question is answered")
    console.print(f"positions      {cost.positions:,} of the language model's {cost.limit:,}")
    time = _table("peak tensors", "TFLOP", "seconds", "share")
    for stage in cost.stages:
        seconds, total = made.seconds(stage), made.total
        spent = ("", "") if seconds is None or not total else (f"{seconds:,.2f}", f"{seconds / total:.1%}")
        time.add_row(short(made.system, stage.name), _size(stage.live), f"{stage.flops / 1e12:,.2f}", *spent)
    time.add_section()
    time.add_row(
        "total", "", f"{cost.flops / 1e12:,.2f}", "" if made.total is None else f"{made.total:,.2f}", style="bold"
    )
    console.print(time, crop=False)
    console.print(f"time           {_time(made)}")
    console.print(
        f"fits           {_fits(made, measured_room)}", style="green" if made.fits else "bold red", soft_wrap=True
    )
    for change in made.changes:
        most = "any number of frames fits" if change.most is None else f"{change.most:,} frames fit"
        console.print(f"{'  enough' if change.fits else '  too little':<15}{change.flag}: {most}", markup=False)


def _table(*columns: str) -> FigureTable:
    table = FigureTable(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _tokens(made: Plan) -> str:
    cost = made.cost
    return f"{cost.tokens:,} tokens, {_size(cost.cached)}" + (f", of {cost.read:,} that are read" if cost.read else "")


def _time(made: Plan) -> str:
    roof = made.roof
    if roof is None:
        return "not known: --roof GB/s,TFLOP/s says what the device can do"
    return (
        f"at least, with {roof.bandwidth / 1e9:,.0f} GB/s and {roof.matrix / 1e12:,.2f} TFLOP/s used to the full; decoding not"
        " counted"
    )


def _fits(made: Plan, measured_room: bool) -> str:
    room = "" if made.room is None else f" in {_size(made.room)}{' free here' if measured_room else ''}"
    if made.most is None:
        return f"yes; so does any number of frames{room}"
    why = f"then {made.why if made.why != 'memory' else 'memory ends'}"
    return f"{'yes' if made.fits else 'no'}; up to {made.most:,} frames{room}, {why}"


def _size(size: int) -> str:
    return f"{size / _GIB:,.2f} GiB" if size >= _GIB else f"{size / _MIB:,.1f} MiB"
