"""LLaMA-VID as a `System`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from longreel.models.cost import Setting, SystemCost
from longreel.models.llama_vid.presets import PRESETS, LlamaVidPreset
from longreel.models.llama_vid.tokens import choose_compress, content_counts
from longreel.models.prompts import ANSWER, IDS, Prompts
from longreel.models.system import SHARED_LANGUAGE, InputFacts, Session, Stage, System, option

if TYPE_CHECKING:
    from longreel.models.checkpoint import Released
    from longreel.models.llama_vid.model import LlamaVid


_ATTENTION, _NOT_TOWER = r"adapter\.attention\..*", r"(?!tower\.).*"


@dataclass(frozen=True)
class LlamaVidOptions:
    """Of the command line."""

    tokens_per_frame: str | None = option(
        None, "content tokens: a number, or auto. Default: the preset's for video, all for images."
    )
    token_budget: int | None = option(
        None, "with auto: tokens for the video; default: what the language model has left.", least=2
    )
    text_decoder: Literal["qformer", "bert"] | None = option(
        None,
        "qformer, learned queries read a frame; bert, the question's own tokens do. Default: the checkpoint's, or qformer.",
    )
    average_padding: bool = option(
        False, "with bert and several questions: average over padding too, as the released code does."
    )
    equation: Literal["released", "paper"] = option(
        "released", "released (default), keys and a scale as the code; paper, its equation 1, without."
    )
    drop_cls: bool = option(False, "drop the tower's CLS token before everything, as for long video.", tower=True)


class LlamaVidSystem(System):
    """Two tokens a frame, or more. The question takes part in the compression: what is cached answers no other one."""

    name = "llama-vid"
    Options = LlamaVidOptions
    stages = (
        Stage("query", "Q-Former (text queries)"),
        Stage("compress", "compression", ours=True),
        SHARED_LANGUAGE,
    )
    # Context attention and projector; all but the tower; and, as released, at last the text decoder and the context
    # attention stay as they are.
    training: ClassVar = {
        "paper": ((_ATTENTION,), (_NOT_TOWER,), (_NOT_TOWER,)),
        "released": ((_ATTENTION,), (_NOT_TOWER,), (r"language\..*", r"adapter\.attention\.mm_projector\..*")),
    }

    @property
    def presets(self) -> Mapping[str, LlamaVidPreset]:
        return PRESETS

    def sized(self, preset: LlamaVidPreset, folder: Path) -> LlamaVidPreset:
        from longreel.models.llama_vid.checkpoint import sized

        return sized(preset, folder)

    def prefix(self, options: LlamaVidOptions) -> int:
        return int(not options.drop_cls)

    def prompts(self, preset: LlamaVidPreset, texts: list[str], length: int | None, folder: Path | None) -> Prompts:
        from longreel.models.llama_vid.prompts import by_bytes, by_vocabulary

        positions = preset.qformer.positions
        asked = None if folder is None else by_vocabulary(texts, folder, positions, length or ANSWER)
        return asked or by_bytes(texts, positions, length or IDS)

    def recognises(self, folder: Path) -> bool:
        from longreel.models.checkpoint import shapes

        return any(name.startswith("model.vlm_att_") for name in shapes(folder))

    def released(self, model: Any, folder: Path) -> "Released":
        from longreel.models.llama_vid.checkpoint import released

        return released(model, folder)

    def build(
        self,
        preset: LlamaVidPreset,
        options: LlamaVidOptions,
        given: InputFacts,
        prompts: Prompts | None,
        *,
        device: torch.device,
        checkpoint: Path | None = None,
        backend: str | None = None,
    ) -> "LlamaVid":
        from longreel.models.llama_vid.checkpoint import load
        from longreel.models.llama_vid.model import LlamaVid

        model = LlamaVid(
            preset,
            compress="preset" if prompts is None else _compress(preset, options, given, prompts.longest),
            num_prefix_tokens=given.prefix,
            text_decoder=options.text_decoder,
            average_padding=options.average_padding,
            equation=options.equation,
            backend=backend,
            device=device,
        )
        if checkpoint is not None:
            load(model, checkpoint)
        return model

    def session(self, model: Any, prompts: Any, path: str, *, expected: int | None, compare: bool) -> Session:
        from longreel.models.llama_vid.session import LlamaVidSession

        return LlamaVidSession(model, prompts, path, expected)

    def steps(self, preset: LlamaVidPreset) -> int:
        return preset.qformer.layers + 1

    def cost(self, preset: LlamaVidPreset, options: LlamaVidOptions, setting: Setting) -> SystemCost:
        from longreel.models.llama_vid.cost import system_cost

        if (options.text_decoder or preset.text_decoder) != "qformer":
            raise ValueError(f"--text-decoder bert: {self.name} has formulas with a Q-Former alone")
        given = InputFacts(self.prefix(options), False, setting.frames)
        compress = _compress(preset, options, given, setting.text)
        counts = content_counts(preset.tower.image // preset.tower.patch)
        content = next(count for count, name in counts.items() if name == compress)
        return system_cost(preset, setting, given.prefix, content)

    def changes(self, preset: LlamaVidPreset, options: LlamaVidOptions) -> Mapping[str, Sequence[Any]]:
        fewer = reversed(content_counts(preset.tower.image // preset.tower.patch))
        return {"tokens_per_frame": [str(count) for count in fewer]}


def _compress(preset: LlamaVidPreset, options: LlamaVidOptions, given: InputFacts, taken: int) -> str | None:
    """`compress` for --tokens-per-frame, where the question and its answer take `taken` positions."""
    wanted, budget = options.tokens_per_frame, options.token_budget
    if wanted is None:
        return None if given.still else preset.compress
    if wanted != "auto" and not wanted.isdecimal():
        raise ValueError(f"--tokens-per-frame {wanted!r}: give a number, or auto")
    if wanted == "auto" and given.still:
        return None
    left = preset.language.positions - taken
    return choose_compress(
        "auto" if wanted == "auto" else int(wanted),
        side=preset.tower.image // preset.tower.patch,
        frames=given.expected,
        budget=min(budget or left, left),
    )


SYSTEM = LlamaVidSystem()
