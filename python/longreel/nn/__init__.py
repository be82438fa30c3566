"""Modules around the ops, with the parameter names of the released checkpoints."""

from longreel.nn.context_attention import ContextAttention, fold_projections

__all__ = ["ContextAttention", "fold_projections"]
