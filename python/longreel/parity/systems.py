"""`longreel parity NAME`: a system of ours on its two paths and in float64, on the same frames of noise."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longreel.models.record import EXACT, OURS, REFERENCE
from longreel.models.setup import Setup, setup_of
from longreel.models.sizes import computed_in
from longreel.models.system import Chunk, InputFacts
from longreel.parity.lines import Drift, logits_lines, tensor_lines

# Dimensions of what is cached, where it is keys and values: [layers, 2, Hkv, rows, D].
_OF_LAYERS = 5


def system_drifts(
    name: str,
    dtypes: Sequence[str],
    *,
    preset: str = "tiny",
    checkpoint: Path | None = None,
    frames: int = 8,
    device: str | None = None,
    backend: str | None = None,
) -> Iterator[Drift]:
    """What is cached of the frames, the language model's layers and the logits behind a question: longreel's path, the published
    order and float64. dtypes: names as in torch; a GPU computes in bfloat16 whatever they say.

    Raises:
        ValueError: as `longreel.models.setup.setup_of`, or frames that do not fit.
    """
    for dtype in dtypes:
        setup = setup_of(name, preset, checkpoint, device, backend=backend)
        setup = replace(setup, preset=replace(setup.preset, dtype=dtype))
        with torch.inference_mode():
            yield _drift(setup, frames)


def _drift(setup: Setup, frames: int) -> Drift:
    system, prompts = setup.system, setup.prompts(length=1)
    clips = None if system.audio is None else frames
    facts = InputFacts(setup.prefix, still=False, expected=frames, clips=clips)
    model = system.build(
        setup.preset,
        setup.options,
        facts,
        prompts,
        device=setup.device,
        checkpoint=setup.checkpoint,
        backend=setup.backend,
    )
    chunks = [*_noise(setup, model, frames)]
    layers: dict[str, list[Tensor]] = {}
    found: dict[str, tuple[Mapping[str, Tensor], Tensor, Tensor]] = {}
    with ExitStack() as hooks:
        for name, layer in _language_layers(model):
            hooks.callback(layer.register_forward_hook(_overhearing(layers, name)).remove)
        for path in (OURS, REFERENCE, EXACT):
            found[path] = _answered(setup, model, prompts, path, chunks, frames, layers)
    dtype, steps = computed_in(setup.preset, setup.device), system.steps(setup.preset)
    truth, plain, ours = (found[path] for path in (EXACT, REFERENCE, OURS))
    lines = tensor_lines("cached of the frames", (truth[1], plain[1], ours[1]), dtype, steps)
    if truth[1].dim() == _OF_LAYERS:
        for index, parts in enumerate(zip(truth[1], plain[1], ours[1], strict=True)):
            lines += tensor_lines(f"keys and values cached of layer {index}", parts, dtype, steps)
    for index, name in enumerate(truth[0]):
        lines += tensor_lines(name, (truth[0][name], plain[0][name], ours[0][name]), dtype, steps + index + 1)
    lines += logits_lines((truth[2], plain[2], ours[2]), dtype, steps + len(truth[0]) + 1)
    notes = (
        f"{system.name}, preset {setup.preset.name}, weights: {setup.weights}; {frames} frames of noise; layers and logits at the"
        f" {len(truth[2])} tokens of the question; the published order is without gradients here, so that none are compared",
    )
    return Drift(system.name, str(dtype).removeprefix("torch."), tuple(lines), notes)


def _noise(setup: Setup, model: Any, frames: int) -> Iterator[Chunk]:
    draw = torch.Generator().manual_seed(0)
    image, audio = setup.preset.tower.image, setup.system.audio
    for begin in range(0, frames, setup.preset.chunk):
        count = min(setup.preset.chunk, frames - begin)
        pixels = torch.randint(0, 256, (count, image, image, 3), dtype=torch.uint8, generator=draw)
        heard = None
        if audio is not None:
            clips = torch.randn(count, round(audio.rate * audio.seconds), generator=draw) / 4
            heard = model.encode_audio(clips.to(setup.device))
        yield Chunk(model.encode(pixels.to(setup.device)), heard)


def _untimed(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def _answered(
    setup: Setup,
    model: Any,
    prompts: Any,
    path: str,
    chunks: Sequence[Chunk],
    frames: int,
    layers: dict[str, list[Tensor]],
) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
    """Rows of the question in every layer, what is cached, logits."""
    session = setup.system.session(model, prompts, path, expected=frames, compare=True)
    for chunk in chunks:
        session.consume(chunk, _untimed)
    session.finish(_untimed)
    session.prepare(0, _untimed)
    layers.clear()
    logits = session.answer(0, lambda: None).logits
    rows = len(logits)
    asked = {name: torch.cat(calls, 1)[0, -rows:] for name, calls in layers.items()}
    return asked, session.compared(), logits


def _language_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and "language." in name and name.count(".layers") == 1:
            for index, layer in enumerate(module):
                yield f"{name}.{index}", layer


def _overhearing(layers: dict[str, list[Tensor]], name: str) -> Any:
    def overhear(module: nn.Module, args: Any, out: Any) -> None:
        layers.setdefault(name, []).append((out if isinstance(out, Tensor) else out[0]).detach())

    return overhear
