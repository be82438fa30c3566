"""Video-LLaMA as a `System`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from longreel.models.cost import Setting, SystemCost
from longreel.models.prompts import ANSWER, IDS, Prompts
from longreel.models.system import SHARED_LANGUAGE, AudioSpec, InputFacts, Session, Stage, System, option
from longreel.models.video_llama.presets import PRESETS, VideoLlamaPreset

if TYPE_CHECKING:
    from longreel.models.checkpoint import Released
    from longreel.models.video_llama.model import VideoLlama


@dataclass(frozen=True)
class VideoLlamaOptions:
    """Of the command line."""

    interpolate: bool = option(
        False,
        "more frames or clips than there are trained positions take positions in between; else they are an error.",
    )
    audio_clips: int = option(8, "clips of two seconds that are heard; default 8.", least=1, sound=True)
    clip_placement: Literal["released", "whole", "all"] = option(
        "released",
        "released (default), the clips end before the sound does; whole, the last one ends with it; all, one after the other.",
        sound=True,
    )
    audio_channels: Literal["left", "mean"] = option(
        "left", "left (default), the first channel alone, as released; mean, of all.", sound=True
    )
    clip_mean: Literal["shared", "own"] = option(
        "shared",
        "shared (default), as released a clip loses the mean of overlapping ones before it too, over all channels; own, its own.",
        sound=True,
    )
    audio_scale: Literal["released", "unit"] = option(
        "released", "released (default), audio embeddings of a norm of 20; unit, of 1, as in training."
    )


_VIDEO = (r"adapter\.video_(frame_position_embedding|Qformer|query_tokens).*", r"adapter\.llama_proj\..*")
_AUDIO = (r"adapter\.audio_(position_embedding|Qformer|query_tokens|llama_proj).*",)


class VideoLlamaSystem(System):
    """32 tokens of a whole video, 8 of its sound: the same for every question."""

    name = "video-llama"
    Options = VideoLlamaOptions
    stages = (
        Stage("frame", "frame Q-Former", ours=True),
        Stage("video", "video Q-Former", ours=True),
        Stage("listen", "audio Q-Former", ours=True),
        SHARED_LANGUAGE,
    )
    frames = "uniform:8"
    fit = "stretch"
    long = ("--interpolate",)
    long_video = ("--frames", "fps:1", "--clip-placement", "all")
    # Video captions, then instructions; after them both again for the sound, on ImageBind's embeddings of pictures.
    training = dict.fromkeys(("paper", "released"), (_VIDEO, _VIDEO, _AUDIO, _AUDIO))
    audio = AudioSpec(rate=16000, seconds=2.0)
    memory = "the tokens of the video and of its sound"

    @property
    def presets(self) -> Mapping[str, VideoLlamaPreset]:
        return PRESETS

    def sized(self, preset: VideoLlamaPreset, folder: Path) -> VideoLlamaPreset:
        from longreel.models.video_llama.checkpoint import sized

        return sized(preset, folder)

    def prefix(self, options: VideoLlamaOptions) -> int:
        return 1

    def sound(self, path: Path, preset: VideoLlamaPreset, options: VideoLlamaOptions) -> Any:
        from longreel.models.video_llama.sound import open_clips

        return open_clips(
            path,
            count=options.audio_clips,
            placement=options.clip_placement,
            channels=options.audio_channels,
            mean=options.clip_mean,
        )

    def prompts(self, preset: VideoLlamaPreset, texts: list[str], length: int | None, folder: Path | None) -> Prompts:
        from longreel.models.video_llama.checkpoint import language_folder
        from longreel.models.video_llama.prompts import by_bytes, by_vocabulary

        asked = None if folder is None else by_vocabulary(texts, language_folder(folder), length or ANSWER)
        return asked or by_bytes(texts, length or IDS)

    def recognises(self, folder: Path) -> bool:
        from longreel.models.video_llama.checkpoint import AUDIO_FILE, is_whole

        return (folder / AUDIO_FILE).exists() or is_whole(folder)

    def released(self, model: Any, folder: Path) -> "Released":
        from longreel.models.video_llama.checkpoint import released

        return released(model, folder)

    def build(
        self,
        preset: VideoLlamaPreset,
        options: VideoLlamaOptions,
        given: InputFacts,
        prompts: Prompts | None,
        *,
        device: torch.device,
        checkpoint: Path | None = None,
        backend: str | None = None,
    ) -> "VideoLlama":
        from longreel.models.video_llama.checkpoint import load
        from longreel.models.video_llama.model import VideoLlama
        from longreel.models.video_llama.positions import check

        if prompts is not None:
            # Known before anything is decoded; the encoders alone take any number.
            check(preset.clips, given.clips or 0, options.interpolate, "clips")
        model = VideoLlama(
            preset, interpolate=options.interpolate, audio_scale=options.audio_scale, backend=backend, device=device
        )
        if checkpoint is not None:
            load(model, checkpoint)
        return model

    def session(self, model: Any, prompts: Any, path: str, *, expected: int | None, compare: bool) -> Session:
        from longreel.models.video_llama.session import VideoLlamaSession

        return VideoLlamaSession(model, prompts, path, expected)

    def steps(self, preset: VideoLlamaPreset) -> int:
        return preset.frame.layers + preset.video.layers

    def cost(self, preset: VideoLlamaPreset, options: VideoLlamaOptions, setting: Setting) -> SystemCost:
        from longreel.models.video_llama.cost import system_cost
        from longreel.models.video_llama.positions import check

        check(preset.frames, setting.frames, options.interpolate, "frames")
        # Where all are heard, two seconds each, at a frame a second.
        clips = -(-setting.frames // 2) if options.clip_placement == "all" else options.audio_clips
        check(preset.clips, clips, options.interpolate, "clips")
        return system_cost(preset, setting, clips)


SYSTEM = VideoLlamaSystem()
