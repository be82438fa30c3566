"""Attention under a layout by flash attention that is not ours: torch's, or the package flash-attn."""
