"""`longreel compress`: a video for a model of transformers with fewer tokens, what that costs, and what stayed."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from longreel.cli.console import one_line_errors
from longreel.cli.files import append, check_apart, check_output
from longreel.cli.options import Device, JsonFile, bounded
from longreel.compression import METHODS
from longreel.models.prompts import QUESTION

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def compress(
    video: Annotated[Path, typer.Argument(help="A video, or a picture that moves.")],
    model: Annotated[Path, typer.Option(help="A folder with a video model of transformers.")],
    method: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(METHODS)}; may be repeated. Default: all.")
    ] = None,
    keep: Annotated[
        list[float] | None, typer.Option(help="Share of the tokens, up to 1; may be repeated. Default: 0.25.")
    ] = None,
    frames: Annotated[str, typer.Option(help="Which frames: uniform:32, fps:1, keys, ...")] = "uniform:32",
    size: Annotated[
        int | None, typer.Option(min=1, callback=bounded, help="Pixels a side. Default: what suits the model.")
    ] = None,
    question: Annotated[str, typer.Option(help="Behind the video, where the folder has a tokenizer.")] = QUESTION,
    planted: Annotated[
        int, typer.Option(min=0, callback=bounded, help="Cards put in the place of frames, whose tokens are counted.")
    ] = 2,
    chunk: Annotated[int, typer.Option(min=1, callback=bounded, help="Frames in the tower at a time.")] = 64,
    dtype: Annotated[str, typer.Option(help=", ".join(_DTYPES))] = "fp32",
    device: Device = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the frames with the kept tokens lit (.png or .svg).")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Each method at each share against the model with all tokens: KL, first choices, planted frames, seconds."""
    with one_line_errors():
        if dtype not in _DTYPES:
            raise ValueError(f"--dtype {dtype!r}: there is {', '.join(_DTYPES)}")
        check_apart([video], picture=picture, json=json_file)
        check_output(picture, ".png", ".svg")
        check_output(json_file)
        _run(
            video, model, method or list(METHODS), keep or [0.25], frames=frames, size=size, question=question, planted=planted,
            chunk=chunk, dtype=_DTYPES[dtype], device=device, picture=picture, json_file=json_file,
        )  # fmt: skip


def _run(
    video: Path,
    folder: Path,
    methods: list[str],
    keep: list[float],
    *,
    frames: str,
    size: int | None,
    question: str,
    planted: int,
    chunk: int,
    dtype: torch.dtype,
    device: str | None,
    picture: Path | None,
    json_file: Path | None,
) -> None:
    from longreel.compression import compression_quality, keep_all_difference
    from longreel.compression.video import check_options
    from longreel.models.setup import device_of
    from longreel.parity.folder import known_ids, loaded
    from longreel.parity.footage import footage, footage_inputs, looks_untrained

    for name in methods:
        for share in keep:
            check_options(name, share, None, None)
    model = loaded(folder, dtype, device_of(device))
    shot = footage(model, video, frames, size, planted)
    with known_ids(folder):
        inputs = footage_inputs(model, folder, shot, question)
        apart = keep_all_difference(model, inputs, chunk_frames=chunk)
        report = compression_quality(
            model,
            inputs,
            methods=methods,
            keep=keep,
            planted=[shot.planted] if shot.planted else None,
            chunk_frames=chunk,
        )
    side, ingested = shot.pixels.shape[1], len(shot.pixels) / (report.tower + min(row.scoring for row in report.rows))
    print(
        f"{video.name}: {len(shot.pixels)} frames of {side} x {side}, {ingested:.1f} a second through tower and scoring\n"
    )
    print(report)
    equal = "equal to the model's own, bit for bit" if apart == 0 else f"{apart:.1e} from the model's own at most"
    print(f"\nkeep 1: the last logits are {equal}")
    untrained = looks_untrained(model)
    if untrained:
        print("random weights (every norm's weight is 1): right arithmetic and seconds, nothing about answers")
    if json_file is not None:
        rows = [{key: value for key, value in asdict(row).items() if key != "cuts"} for row in report.rows]
        line: dict[str, Any] = {
            "model": report.model, "frames": len(shot.pixels), "steps": report.frames, "tokens": report.tokens,
            "tower": report.tower, "full": report.full,
            "keep_all_difference": apart, "random_weights": untrained, "planted": shot.planted, "rows": rows,
        }  # fmt: skip
        append(json_file, line)
    if picture is not None:
        from longreel.report.kept_picture import draw_kept

        share = keep[0]
        cuts = [(row.method, row.cuts[0]) for row in report.rows if row.keep == share]
        title = f"{video.name}: {share:.0%} of {report.tokens} tokens"
        draw_kept(shot.pixels[:: shot.step], cuts, shot.planted, title, picture)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(compress)
