"""`longreel plan`: memory and time of a run, before anything is run."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longreel.cli.console import consoles, one_line_errors
from longreel.cli.files import append, check_output
from longreel.cli.options import (
    MOST,
    SYSTEM,
    Checkpoint,
    Chunk,
    Dtype,
    JsonFile,
    Own,
    PresetName,
    System,
    bounded,
    with_options,
)
from longreel.files.foreign import shown

if TYPE_CHECKING:
    from longreel.bench.roof import Roof

# Of the number before its unit.
_LARGEST = 1e9
_POWERS = {letter: power for power, letter in enumerate("KMGT", 1)}


def plan(
    system: System = SYSTEM,
    preset: PresetName = "tiny",
    checkpoint: Checkpoint = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Of video. Default: 1.")] = None,
    fps: Annotated[float, typer.Option(min=0.001, help="Frames of a second.")] = 1.0,
    count: Annotated[
        int | None, typer.Option(min=1, callback=bounded, help="Frames, in place of hours and fps.")
    ] = None,
    vram: Annotated[str | None, typer.Option(help="Of the GPU: 24GiB, 80GB, or a number of GiB.")] = None,
    ram: Annotated[
        str | None, typer.Option(help="For a run on the CPU. Default without --vram: what is free here.")
    ] = None,
    own: Own = {},  # noqa: B006, never changed
    question: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    answer_tokens: Annotated[
        int | None,
        typer.Option(min=1, callback=bounded, help="Tokens at most. Default: 64, and 8 ids from random weights."),
    ] = None,
    chunk: Chunk = None,
    dtype: Dtype = None,
    roof: Annotated[
        str | None,
        typer.Option(
            help="Of the device, GB/s and TFLOP/s: 3350,990. Default: measured, if it is this machine's; none: no time."
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Tokens, memory, time and the largest number of frames, by formula: nothing is run, no weights are made."""
    with one_line_errors():
        import torch

        from longreel.measure.memory import free_memory
        from longreel.models.planning import json_plan
        from longreel.models.planning import plan as planned
        from longreel.report import plan_table

        check_output(json_file)
        if vram is not None and ram is not None:
            raise ValueError(f"--vram {vram} --ram {ram}: a run is on one of them")
        if count is not None and hours is not None:
            raise ValueError(f"--count {count} --hours {hours:g}: give one of them")
        gpu = vram is not None or (ram is None and torch.cuda.is_available())
        given = vram if gpu else ram
        device = torch.device("cuda" if gpu else "cpu")
        # A card that is not here has what --vram says.
        room = free_memory(device) if given is None else _bytes("--vram" if gpu else "--ram", given)
        wanted = (1.0 if hours is None else hours) * 3600 * fps
        # Also infinity, and what is no number.
        if count is None and not wanted <= MOST:
            raise ValueError(f"--hours {hours or 1:g} --fps {fps:g}: are more than {MOST} frames")
        frames = count or max(1, round(wanted))
        made = planned(
            system,
            preset,
            frames=frames,
            memory=room,
            gpu=gpu,
            checkpoint=checkpoint,
            options=own,
            questions=question or None,
            answer_tokens=answer_tokens,
            chunk=chunk,
            dtype=dtype,
            roof=_roof(roof, device),
        )
        if json_file is not None:
            append(json_file, json_plan(made))
        plan_table.show(made, consoles()[0], given is None)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_options(plan))


def _bytes(option: str, text: str) -> int:
    """Of "24GiB", "80 GB", or a number of GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\s*([KMGT])(I?)B)?", text.strip().upper())
    if found is None or not 0 < float(found[1]) < _LARGEST:
        raise ValueError(f"{option} {shown(text)}: must be a size, as 24GiB, 80GB or a number of GiB")
    base = 1000 if found[2] and not found[3] else 1024
    return int(float(found[1]) * base ** _POWERS[found[2] or "G"])


def _roof(text: str | None, device: Any) -> "Roof | None":
    """As it was given, or measured in a second; None where it cannot be, or is not wanted."""
    import torch

    from longreel.bench.roof import Roof, RoofMeter
    from longreel.measure.clock import clock_for

    if text == "none":
        return None
    if text is not None:
        found = re.fullmatch(r"(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)", text.replace(" ", ""))
        if found is None or not all(0 < float(number) < _LARGEST for number in found.groups()):
            raise ValueError(f"--roof {shown(text)}: must be GB/s and TFLOP/s, as 3350,990, or none")
        return Roof(float(found[1]) * 1e9, float(found[2]) * 1e12, "given", "given")
    if device.type == "cuda" and not torch.cuda.is_available():
        return None
    on_cpu = device.type == "cpu"
    meter = RoofMeter(device, torch.float32 if on_cpu else torch.bfloat16, 2**28, 1024 if on_cpu else 0)
    for _ in range(3):
        meter.sample(clock_for(device))
    return meter.roof()
