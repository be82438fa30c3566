"""The comparison of a model with and without longreel: equal where it is, and it sees what is not."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations"))
from tiny_block_vlms import gemma3, molmo2, padded
from tiny_vlms import made

from longreel.integrations import mask_sets
from longreel.layout import row_sets
from longreel.parity import patched
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
        raise row_sets.TwoRanges("row 3 attends to too much")

    monkeypatch.setattr(mask_sets.row_sets, "groups", refuse)
    assert main([f"{__name__}:molmo"]) == 2
    assert "refused: this model has a mask" in capsys.readouterr().out
    model, _ = made(molmo2)
    assert model.config.get_text_config()._attn_implementation == "eager"
    assert torch.is_grad_enabled()


def change_ours(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Tensor]], str]) -> str:
    """Runs the comparison with our gradients as `change` leaves them, and gives the verdict on the one that it names."""
    named = []
    real = patched._results

    def results(model: Any, inputs: dict[str, Any], name: str) -> tuple[Tensor, dict[str, Tensor]]:
        logits, gradients = real(model, inputs, name)
        if name == "longreel":
            named.append(change(gradients))
        return logits, gradients

    monkeypatch.setattr(patched, "_results", results)
    report = compare(*gemma())
    assert [line.what for line in report.lines if not line.right] == [f"gradient of {name}" for name in named]
    return report.table()


def test_a_small_gradient_that_is_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def scale(gradients: dict[str, Tensor]) -> str:
        sizes = {name: g.abs().max().item() for name, g in gradients.items()}
        name = min(sizes, key=sizes.__getitem__)
        assert max(sizes[name], max(sizes.values()) / 100) < 0.25
        # half of what would be close if gradients were as large as 1
        gradients[name] = gradients[name] + patched.CLOSE / 2
        return name

    change_ours(monkeypatch, scale)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_of_no_number_is_seen(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(gradients: dict[str, Tensor]) -> str:
        name = next(iter(gradients))
        gradients[name].view(-1)[-1] = value
        return name

    change_ours(monkeypatch, spoil)


def test_a_gradient_of_one_side_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(gradients: dict[str, Tensor]) -> str:
        name = next(iter(gradients))
        del gradients[name]
        return name

    assert "inf" in change_ours(monkeypatch, drop)

    def add(gradients: dict[str, Tensor]) -> str:
        gradients["more"] = torch.zeros(3)
        return "more"

    monkeypatch.undo()
    change_ours(monkeypatch, add)


def test_nothing_compared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = molmo()
    nothing = torch.zeros_like(inputs["input_ids"])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(model, inputs | {"attention_mask": nothing})
    real = patched._masks
    monkeypatch.setattr(patched, "_masks", lambda *given: {})
    with pytest.raises(ValueError, match=r"0 layers ask .* under eager and 0 under 'longreel'; allowed"):
        compare(model, inputs)

    def fewer(model: Any, inputs: Any, name: str) -> dict[str, Tensor]:
        found = real(model, inputs, name)
        return dict(list(found.items())[: 1 if name == patched.OURS else None])

    monkeypatch.setattr(patched, "_masks", fewer)
    with pytest.raises(ValueError, match=r"2 layers ask .* and 1 under"):
        compare(model, inputs)


not_a_function = 3


def of_the_wrong_kind() -> int:
    return 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        (f"{__name__}:no_such", "has no attribute 'no_such'"),
        (f"{__name__}:not_a_function", "is a int, not a function"),
        (f"{__name__}:of_the_wrong_kind", "gave a int; allowed: a pair (model, inputs)"),
        (":f", "Empty module name"),
        (".a:f", "relative"),
        ("alone", "is not MODULE:FUNCTION"),
    ],
)
def test_what_is_no_function(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([given])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m longreel.parity: error:")
    assert said in last
