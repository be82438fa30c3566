"""Modules and losses around the ops, with the parameter names of the released checkpoints."""

from longreel.nn.context_attention import ContextAttention, fold_projections
from longreel.nn.distillation import distillation_loss
from longreel.nn.qformer import QFormer, QFormerOutput, QFormerQuestion
from longreel.nn.qformer_keys import QFormerKeys
from longreel.nn.qformer_parts import QFormerConfig

__all__ = [
    "ContextAttention",
    "QFormer",
    "QFormerConfig",
    "QFormerKeys",
    "QFormerOutput",
    "QFormerQuestion",
    "distillation_loss",
    "fold_projections",
]
