"""VoCo-LLaMA as a `System`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from longreel.models.cost import Setting, SystemCost
from longreel.models.prompts import ANSWER, IDS, Prompts
from longreel.models.system import LANGUAGE, InputFacts, LiveSession, Part, Session, Stage, System, option
from longreel.models.voco_llama.presets import PRESETS, VoCoPreset

if TYPE_CHECKING:
    from longreel.models.checkpoint import Released
    from longreel.models.voco_llama.model import VoCoLlama


@dataclass(frozen=True)
class VoCoOptions:
    """Of the command line."""

    voco: int = option(1, "VoCo tokens of a frame; default 1.", least=1)
    mode: Literal["independent", "causal"] = option(
        "independent", "a frame attends to itself only (independent, the default), or earlier VoCo tokens (causal)."
    )
    positions: Literal["compact", "absolute"] = option(
        "compact", "compact (the default) or absolute, which counts every token."
    )


class VoCoLlamaSystem(System):
    """Keys and values of a frame's VoCo tokens. The reference path reads every frame at once, under a dense mask."""

    name = "voco-llama"
    Options = VoCoOptions
    stages = (Stage("vision", "vision stage", ours=True), LANGUAGE)
    memory = "the VoCo tokens' keys and values"
    streams = False
    # LLaVA's alignment; then under the mask, in the paper with `distillation_loss` besides.
    training = dict.fromkeys(("paper", "released"), ((r"projector\..*",), (r"projector\..*", r"decoder\..*")))
    comparable_frames = 4

    @property
    def presets(self) -> Mapping[str, VoCoPreset]:
        return PRESETS

    def sized(self, preset: VoCoPreset, folder: Path) -> VoCoPreset:
        from longreel.models.voco_llama.checkpoint import sized

        return sized(preset, folder)

    def prompts(self, preset: VoCoPreset, texts: list[str], length: int | None, folder: Path | None) -> Prompts:
        from longreel.models.voco_llama.prompts import by_bytes, by_vocabulary

        rows = preset.language.vocabulary
        asked = None if folder is None else by_vocabulary(texts, folder, length or ANSWER, rows)
        return asked or by_bytes(texts, length or IDS)

    def recognises(self, folder: Path) -> bool:
        from longreel.models.checkpoint import shapes

        there = shapes(folder)
        projects = any(name.startswith("model.mm_projector.") for name in there)
        return projects and not any(".vlm_att_" in name or ".beacon_" in name for name in there)

    def released(self, model: Any, folder: Path) -> "Released":
        from longreel.models.voco_llama.checkpoint import released

        return released(model, folder)

    def build(
        self,
        preset: VoCoPreset,
        options: VoCoOptions,
        given: InputFacts,
        prompts: Prompts | None,
        *,
        device: torch.device,
        checkpoint: Path | None = None,
        backend: str | None = None,
    ) -> "VoCoLlama":
        from longreel.models.voco_llama.checkpoint import load
        from longreel.models.voco_llama.model import VoCoLlama

        model = VoCoLlama(
            preset,
            count=options.voco,
            mode=options.mode,
            shared=False,
            absolute=options.positions == "absolute",
            separator=prompts.between if prompts else (),
            backend=backend,
            device=device,
        ).eval()
        if checkpoint is not None:
            load(model, checkpoint)
        return model

    def session(self, model: Any, prompts: Prompts, path: str, *, expected: int | None, compare: bool) -> Session:
        from longreel.models.record import OURS
        from longreel.models.voco_llama.session import CachedSession, DenseSession

        if path == OURS:
            return CachedSession(model, prompts, expected)
        return DenseSession(model, prompts, path, expected, compare)

    def live(self, model: Any, prompts: Prompts, *, max_bytes: int | None) -> LiveSession:
        from longreel.models.voco_llama.session import CachedSession

        return CachedSession(model, prompts, None, max_bytes)

    def steps(self, preset: VoCoPreset) -> int:
        return preset.language.layers

    def cost(self, preset: VoCoPreset, options: VoCoOptions, setting: Setting) -> SystemCost:
        from longreel.models.voco_llama.cost import system_cost

        return system_cost(preset, setting, options.voco, options.mode == "causal", options.positions == "absolute")

    def changes(self, preset: VoCoPreset, options: VoCoOptions) -> Mapping[str, Sequence[Any]]:
        return {"voco": [count for count in (64, 32, 16, 8, 4, 2, 1) if count < options.voco]}

    def comparable(self, model: Any, prompts: Prompts, expected: int | None) -> Part | None:
        from longreel.models.voco_llama import dense

        fit = dense.frames_that_fit(model, prompts)
        if expected is not None and expected <= fit:
            return None
        rows, takes = dense.mask_rows(model, prompts, fit), dense.mask_bytes(model, prompts, fit)
        why = (
            f"their dense mask of {rows:,} x {rows:,} takes {takes / 2**20:,.0f} of the {dense.MASK_BYTES / 2**20:,.0f} MiB"
            " that it may"
        )
        if expected is not None:
            why += f"; {expected:,} frames' would take {dense.mask_bytes(model, prompts, expected) / 2**30:,.1f} GiB"
        return Part(fit, why)


SYSTEM = VoCoLlamaSystem()
