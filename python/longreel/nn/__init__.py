"""Modules and losses around the ops, with the parameter names of the released checkpoints."""

from longreel.nn.context_attention import ContextAttention, fold_projections
from longreel.nn.distillation import distillation_loss

__all__ = ["ContextAttention", "distillation_loss", "fold_projections"]
