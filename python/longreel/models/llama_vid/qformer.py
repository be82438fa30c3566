"""The text-guided Q-Former for many frames of one video and several questions."""

import torch
from torch import Tensor

from longreel.models.llama_vid.bert import bert_sizes
from longreel.models.llama_vid.presets import QFormerSize
from longreel.models.published_qformer import PublishedQFormer
from longreel.nn import QFormer, QFormerConfig

# Frames whose keys and values, where these are projected, stand in memory at once on a CPU; a GPU wants them all.
_CPU_FRAMES = 32


def build_qformer(size: QFormerSize, vision_width: int, cross_attention_every: int = 2) -> QFormer:
    """The Q-Former that reads frames of `vision_width`."""
    return QFormer(
        QFormerConfig(
            **bert_sizes(size), encoder_hidden_size=vision_width, cross_attention_frequency=cross_attention_every
        )
    )


def qformer_frames(qformer: QFormer, learned: Tensor, questions: list[Tensor], encoded: Tensor) -> Tensor:
    """The query rows of the last layer, for every question and frame; of keys and values all questions have the same.

    Args:
        learned: [M, E], the learned queries. questions: int64 [T], without padding; a T may be 0.
        encoded: [F, S, C], the frames after their norm. Differentiable in all of them and in the weights.

    Returns:
        [P, F, M, E].
    """
    asked, parts = [qformer.ask(learned, input_ids=ids[None]) for ids in questions], list[Tensor]()
    for frames in torch.split(encoded, _CPU_FRAMES if encoded.device.type == "cpu" else max(len(encoded), 1)):
        keys = qformer.read(frames, queries=len(learned), questions=len(questions))
        parts.append(torch.stack([qformer(question, keys).queries for question in asked]))
    return torch.cat(parts, 1)


def published_frames(qformer: QFormer, learned: Tensor, questions: list[Tensor], encoded: Tensor) -> Tensor:
    """`qformer_frames` by transformers' Q-Former: all of it for every frame of every question."""
    published = PublishedQFormer(qformer).train(qformer.training)
    return torch.stack([published(learned, encoded, input_ids=ids[None]).queries for ids in questions])
