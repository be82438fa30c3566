"""The comparison of a model with and without longreel: equal where it is, and it sees what is not."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations"))
from tiny_block_vlms import gemma3, molmo2, padded
from tiny_vlms import made

from longreel.integrations import mask_sets
from longreel.layout import row_sets
from longreel.parity.__main__ import main
from longreel.parity.patched import compare


def gemma() -> tuple[Any, dict[str, Any]]:
    model, given = made(gemma3)
    given, _ = padded(given)
    return model, given | {"labels": given["input_ids"]}


def molmo() -> tuple[Any, dict[str, Any]]:
    return made(molmo2)


def test_equal(capsys: pytest.CaptureFixture[str]) -> None:
    report = compare(*gemma())
    assert report.right, report.table()
    kinds = [line.what.split()[0] for line in report.lines]
    assert kinds.count("mask") == 2
    assert kinds.count("gradient") > 20
    assert main([f"{__name__}:molmo"]) == 0
    assert "| logits |" in capsys.readouterr().out


def test_a_dropped_window_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(row_sets, "last", lambda row, window: row_sets.everything(row))
    report = compare(*gemma())
    wrong = [line.what for line in report.lines if not line.right]
    assert "logits" in wrong
    assert any(what.startswith("mask") for what in wrong)
    assert main([f"{__name__}:gemma"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_a_refusal_is_a_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: Any) -> None:
        raise row_sets.TwoRanges("row 3 sees too much")

    monkeypatch.setattr(mask_sets.row_sets, "groups", refuse)
    assert main([f"{__name__}:molmo"]) == 2
    assert "refused: this model has a mask" in capsys.readouterr().out
    model, _ = made(molmo2)
    assert model.config.get_text_config()._attn_implementation == "eager"
    assert torch.is_grad_enabled()
