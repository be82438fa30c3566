"""From the towers' features to the tokens that the language model reads: Video-LLaMA's branches (arXiv 2306.02858), 2.1 and 2.2.

Where paper and released code differ, the released code. Parameters have the released names.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel._explain import explain
from longreel.models.video_llama.positions import positions
from longreel.models.video_llama.presets import BranchSize, VideoLlamaPreset
from longreel.nn import QFormer, QFormerConfig
from longreel.nn.qformer_stream import FeaturePart, read_in_parts

AudioScale = Literal["released", "unit"]


class Branches(nn.Module):
    """Three Q-Formers, two tables of positions and two projections.

    C is the width of the patches, E that of the Q-Formers, Ea the audio embeddings', H the language model's; M = 32 and Ma = 8
    learned queries.

    Args:
        preset: every size.
        interpolate: more frames or clips than the tables have rows take positions in between; an error otherwise.
        audio_scale: "released", audio embeddings as they come, of a norm of 20; "unit", of a norm of 1, as in training, which had
            ImageBind's embeddings of pictures.
        backend: of `longreel.qformer_attention`; None chooses.

    Raises:
        ValueError: `audio_scale` is something else.
    """

    def __init__(
        self,
        preset: VideoLlamaPreset,
        *,
        interpolate: bool = False,
        audio_scale: AudioScale = "released",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if audio_scale not in get_args(AudioScale):
            raise ValueError(f"audio_scale must be one of {', '.join(get_args(AudioScale))}, got {audio_scale!r}")
        self.interpolate, self.audio_scale = interpolate, audio_scale
        patches, tokens, sound = preset.tower.width, preset.frame.width, preset.audio.out
        self.ln_vision = nn.LayerNorm(patches)
        self.Qformer, self.query_tokens = _qformer(preset.frame, patches, backend)
        self.video_frame_position_embedding = nn.Embedding(preset.frames, tokens)
        self.video_Qformer, self.video_query_tokens = _qformer(preset.video, tokens, backend)
        self.llama_proj = nn.Linear(preset.video.width, preset.language.width)
        self.audio_position_embedding = nn.Embedding(preset.clips, sound)
        self.audio_Qformer, self.audio_query_tokens = _qformer(preset.listen, sound, backend)
        self.audio_llama_proj = nn.Linear(preset.listen.width, preset.language.width)
        for table in (self.video_frame_position_embedding, self.audio_position_embedding):
            nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)

    def frame_tokens(self, features: Tensor) -> Tensor:
        """What the frame Q-Former reads of every frame.

        Args:
            features: [F, 1 + N, C], every token of the tower, CLS first.

        Returns:
            [F, M, E].
        """
        _check("features", features, 3, self.ln_vision.normalized_shape[0])
        out: Tensor = self.Qformer["bert"](self.query_tokens, self.ln_vision(features)).queries
        return out

    def video_tokens(self, tokens: Tensor) -> Tensor:
        """The language model's tokens of whole videos.

        Args:
            tokens: [B, F, M, E] of `frame_tokens`.

        Returns:
            [B, M, H]: no more for an hour than for a picture.

        Raises:
            ValueError: more frames than positions, without `interpolate`.
        """
        _check("tokens", tokens, 4, self.video_frame_position_embedding.embedding_dim)
        table = self.frame_table(tokens.shape[1])
        rows = self.video_Qformer["bert"](self.video_query_tokens, tokens.flatten(1, 2), frame_table=table).queries
        out: Tensor = self.llama_proj(rows)
        return out

    def video_tokens_in_parts(self, frames: int, parts: Callable[[], Iterable[Tensor]]) -> Tensor:
        """[1, M, H]: `video_tokens` of one video whose frame tokens do not stand in memory together.

        frames: how many there are. parts: called once for every layer that reads, gives [f, M, E] in order. Without gradients.
        """
        table = self.frame_table(frames)

        def features() -> Iterator[FeaturePart]:
            first = 0
            for part in parts():
                yield FeaturePart(part.flatten(0, 1)[None], table[first : first + len(part)])
                first += len(part)

        qformer = self.video_Qformer["bert"]
        assert isinstance(qformer, QFormer)
        out: Tensor = self.llama_proj(read_in_parts(qformer, self.video_query_tokens[0], features))
        return out

    def audio_tokens(self, embeddings: Tensor) -> Tensor:
        """The language model's tokens of a sound.

        Args:
            embeddings: [B, A, Ea], any of ImageBind's, of A clips.

        Returns:
            [B, Ma, H].

        Raises:
            ValueError: more clips than positions, without `interpolate`.
        """
        _check("embeddings", embeddings, 3, self.audio_position_embedding.embedding_dim)
        if self.audio_scale == "unit":
            embeddings = F.normalize(embeddings, dim=-1)
        table = positions(self.audio_position_embedding, embeddings.shape[1], self.interpolate, "clips")
        rows = self.audio_Qformer["bert"](self.audio_query_tokens, embeddings, frame_table=table).queries
        out: Tensor = self.audio_llama_proj(rows)
        return out

    def frame_table(self, frames: int) -> Tensor:
        """[frames, E]; ValueError as `video_tokens`."""
        return positions(self.video_frame_position_embedding, frames, self.interpolate, "frames")


def chosen_backend(adapter: Branches, features: Tensor) -> str | None:
    """Which backend reads the features [F, 1 + N, C] of frames."""
    qformer = adapter.Qformer["bert"]
    assert isinstance(qformer, QFormer)
    cross = qformer.layers[0].crossattention
    assert cross is not None
    key, value = cross.inner.key, cross.inner.value
    return explain(
        "qformer_attention", adapter.query_tokens, features, key.weight, value.weight, value.bias, num_heads=cross.inner.heads,
        backend=qformer.backend,
    ).chosen  # fmt: skip


def _qformer(size: BranchSize, reads: int, backend: str | None) -> tuple[nn.ModuleDict, nn.Parameter]:
    """The Q-Former under its released name, and its queries [1, M, E]."""
    config = QFormerConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.mlp,
        encoder_hidden_size=reads,
        cross_attention_frequency=size.every,
        text=False,
        initializer_range=size.width**-0.5,
    )
    queries = nn.Parameter(torch.randn(1, size.queries, size.width))
    return nn.ModuleDict({"bert": QFormer(config, backend=backend)}), queries


def _check(name: str, given: Tensor, dims: int, width: int) -> None:
    if not isinstance(given, Tensor) or not given.is_floating_point():
        kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise TypeError(f"{name} must be a tensor of floating numbers, given {kind}")
    if given.dim() != dims or given.shape[-1] != width:
        raise ValueError(f"{name} must have {dims} dimensions, the last {width} wide, given {list(given.shape)}")
