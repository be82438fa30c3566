"""Small real videos, made as for tests/data, and a preset that runs in a moment."""

import sys
from pathlib import Path

import pytest

from longreel.models.llama_vid import PRESETS, LanguageSize, Preset, QFormerSize, TowerSize

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))

from encoded import clip, encode

__all__ = ["clip", "encode"]

SMALL = Preset(
    name="small-for-tests",
    tower=TowerSize(image=56, patch=14, width=32, layers=1, heads=2, mlp=64),
    qformer=QFormerSize(width=24, layers=2, heads=2, mlp=48, queries=5, vocabulary=260, positions=64),
    language=LanguageSize(
        width=32, layers=1, heads=4, kv_heads=2, mlp=64, vocabulary=260, positions=512, rope_factor=2.0
    ),
    compress="mean",
    chunk=4,
    dtype="float32",
)


@pytest.fixture(scope="session")
def sizes() -> Preset:
    """For processes of their own, which are given it."""
    return SMALL


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Preset:
    """The preset "small-for-tests" of the command line."""
    monkeypatch.setitem(PRESETS, SMALL.name, SMALL)
    return SMALL
