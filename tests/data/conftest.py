"""Fixtures that write small real videos."""

from encoded import clip, encode

__all__ = ["clip", "encode"]
