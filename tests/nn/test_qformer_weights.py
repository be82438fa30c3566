"""nn.QFormer computes with its projections as they are: in evaluation as in training, whatever was done to them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from weight_changes import CHANGES, FORMS, Change

from longreel.nn import QFormer, QFormerConfig

pytestmark = pytest.mark.fast
READS = [f"encoder.layer.{layer}.crossattention.self.{kind}" for layer in (0, 2) for kind in ("key", "value")]
SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, "encoder_hidden_size": 12,
    "vocab_size": 30, "max_position_embeddings": 20, "initializer_range": 0.5,
}  # fmt: skip
# How many queries there are decides which form takes fewer FLOPs.
ABSORBED, PROJECTED = 2, 30


def made() -> QFormer:
    torch.manual_seed(0)
    return QFormer(QFormerConfig(**SIZES)).double().eval()


def run(qformer: QFormer, queries: int, *, called: bool = False) -> Tensor:
    """called: with all keys and values projected, as published."""
    generator = torch.Generator().manual_seed(1)
    tokens, features = (torch.randn(*shape, generator=generator).double() for shape in ((queries, 16), (3, 40, 12)))
    return qformer(tokens, qformer.read(features, queries=10**6) if called else features).queries


@pytest.mark.parametrize(("queries", "absorbed"), [(ABSORBED, True), (PROJECTED, False)])
def test_which_form_is_taken(queries: int, absorbed: bool) -> None:
    keys = made().read(torch.randn(3, 40, 12).double(), queries=queries)
    assert [pair is None for pair in keys.projected] == [absorbed] * 2


@pytest.mark.parametrize("queries", [ABSORBED, PROJECTED])
@pytest.mark.parametrize("change", [*CHANGES, *FORMS], ids=lambda change: change.__name__)
def test_evaluation_is_the_training_forward(change: Change, queries: int) -> None:
    qformer = made()
    with torch.no_grad():
        before = run(qformer, queries)
    change(qformer, READS)
    trained = run(qformer, queries)
    assert trained.requires_grad
    assert not torch.allclose(trained, before), "the change must be one that matters"
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(run(qformer, queries), trained)
    torch.testing.assert_close(trained, run(qformer, queries, called=True), rtol=1e-10, atol=1e-12)
