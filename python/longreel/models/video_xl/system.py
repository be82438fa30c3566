"""Video-XL as a `System`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from longreel.data.cards import DigitCard
from longreel.files.foreign import shown
from longreel.models.cost import Setting, SystemCost
from longreel.models.prompts import ANSWER, IDS, Prompts
from longreel.models.system import LANGUAGE, InputFacts, LiveSession, Session, Stage, System, option
from longreel.models.video_xl.presets import NEEDLE, PRESETS, VideoXLPreset

if TYPE_CHECKING:
    from longreel.models.checkpoint import Released
    from longreel.models.video_xl.model import VideoXL


@dataclass(frozen=True)
class VideoXLOptions:
    """Of the command line. ratio: one, or several with commas between them."""

    ratio: str | int = option(
        8, "visual tokens of a VST token; default 8. Several, as 2,4,8: every window has one of them (--draw)."
    )
    draw: Literal["step-random", "instance-random", "sequence"] = option(
        "step-random",
        "which of several ratios a window has: a new one by chance (step-random, the default), one by chance for all of the"
        " video (instance-random), one after the other (sequence).",
    )
    tiles: Literal["released", "paper", "none"] = option(
        "released",
        "how one picture alone is cut: by the best of all grids (released, the default), by its size (paper), not (none).",
        tower=True,
    )

    def __post_init__(self) -> None:
        one, *more = ratios = self.ratios
        object.__setattr__(self, "ratio", ",".join(map(str, ratios)) if more else one)

    @property
    def ratios(self) -> tuple[int, ...]:
        parts = str(self.ratio).split(",")
        ratios = tuple(int(part) for part in parts if part.strip().isdecimal())
        if len(ratios) < len(parts) or not all(ratios):
            raise ValueError(f"--ratio {shown(str(self.ratio))}: allowed are a number from 1 on, or several, as 2,4,8")
        return ratios


class VideoXLSystem(System):
    """Keys and values of prefix and VST tokens. The reference path is the released order of operations, window after window."""

    name = "video-xl"
    Options = VideoXLOptions
    stages = (
        Stage("project", "projector and pooling"),
        Stage("memory", "video memory", ours=True),
        LANGUAGE,
    )
    # 1 fps, and uniformly the most that is claimed for one card where that would be more.
    frames, long_video = "fps:1,max=2048", ("--frames", "fps:1")
    memory = "prefix and VST tokens' keys and values"
    comparable_frames = 20
    # Pre-training of the projector; then everything, the tower too.
    training = dict.fromkeys(("paper", "released"), ((r"projector\..*",), (r".*",)))

    @property
    def presets(self) -> Mapping[str, VideoXLPreset]:
        return PRESETS

    def weights(self, preset: str) -> Path | None:
        return Path(__file__).with_name(preset) if preset == NEEDLE.name else None

    def question(self, preset: str) -> str:
        return DigitCard("red", 0, 0).question if preset == NEEDLE.name else super().question(preset)

    def sized(self, preset: VideoXLPreset, folder: Path) -> VideoXLPreset:
        from longreel.models.video_xl.checkpoint import sized

        return sized(preset, folder)

    def cut(self, preset: VideoXLPreset, options: VideoXLOptions) -> Callable[[Tensor], Tensor] | None:
        from longreel.models.video_xl.tiles import tiles

        if options.tiles == "none":
            return None
        return partial(tiles, side=preset.tower.image, most=preset.tiles, rule=options.tiles)

    def prompts(self, preset: VideoXLPreset, texts: list[str], length: int | None, folder: Path | None) -> Prompts:
        from longreel.models.video_xl.prompts import by_bytes, by_vocabulary

        asked = None if folder is None else by_vocabulary(texts, folder, length or ANSWER)
        return asked or by_bytes(texts, length or IDS)

    def recognises(self, folder: Path) -> bool:
        from longreel.models.checkpoint import shapes

        return any(".beacon_" in name for name in shapes(folder))

    def released(self, model: Any, folder: Path) -> "Released":
        from longreel.models.video_xl.checkpoint import released

        return released(model, folder)

    def build(
        self,
        preset: VideoXLPreset,
        options: VideoXLOptions,
        given: InputFacts,
        prompts: Prompts | None,
        *,
        device: torch.device,
        checkpoint: Path | None = None,
        backend: str | None = None,
    ) -> "VideoXL":
        from longreel.models.video_xl.checkpoint import load
        from longreel.models.video_xl.model import VideoXL

        ratio = options.ratios[0] if len(options.ratios) == 1 else options.ratios
        model = VideoXL(preset, ratio=ratio, draw=options.draw, backend=backend, device=device).eval()
        if checkpoint is not None:
            load(model, checkpoint)
        return model

    def session(self, model: Any, prompts: Prompts, path: str, *, expected: int | None, compare: bool) -> Session:
        from longreel.models.record import OURS
        from longreel.models.video_xl.session import MemorySession, PublishedSession

        if path == OURS:
            return MemorySession(model, prompts, expected)
        return PublishedSession(model, prompts, path, expected)

    def live(self, model: Any, prompts: Prompts, *, max_bytes: int | None) -> LiveSession:
        from longreel.models.video_xl.session import MemorySession

        return MemorySession(model, prompts, None, max_bytes=max_bytes, live=True)

    def steps(self, preset: VideoXLPreset) -> int:
        return preset.language.layers

    def cost(self, preset: VideoXLPreset, options: VideoXLOptions, setting: Setting) -> SystemCost:
        from longreel.models.video_xl.cost import system_cost

        return system_cost(preset, setting, options.ratios, options.draw)

    def changes(self, preset: VideoXLPreset, options: VideoXLOptions) -> Mapping[str, Sequence[Any]]:
        return {"ratio": [ratio for ratio in (2, 4, 8, 12, 16) if ratio > min(options.ratios)]}


SYSTEM = VideoXLSystem()
