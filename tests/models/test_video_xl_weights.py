"""Video-XL's memory is made of the projections as they are: as in the training pass, whatever was done to them."""

import sys
from pathlib import Path

import pytest
import torch
from test_video_xl import adapted, ids, vision
from torch import Tensor

from longreel.models.video_xl import IMAGE, VSTDecoder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nn"))
from weight_changes import CHANGES, FORMS, Change

pytestmark = pytest.mark.fast
PROJECTIONS = [
    f"language.model.layers.{layer}.self_attn.{own}{name}_proj"
    for layer in (0, 1, 2)
    for own in ("", "beacon_")
    for name in ("q", "k", "v")
]
PREFIX, TEXT = ids(5), ids(6, seed=3)


def made() -> VSTDecoder:
    torch.manual_seed(0)
    return adapted(backend="reference").double()


def evaluated(decoder: VSTDecoder) -> Tensor:
    return decoder.answer(decoder.encode(vision(32).double(), prefix=PREFIX.tolist()), TEXT)[1]


def trained(decoder: VSTDecoder) -> Tensor:
    whole = torch.cat([PREFIX, torch.full((8,), IMAGE), TEXT])
    logits: Tensor = decoder(whole[None], vision(32).double().view(8, 4, 32)).logits[0]
    return logits[-len(TEXT) :]


@pytest.mark.parametrize("change", [*CHANGES, *FORMS], ids=lambda change: change.__name__)
def test_evaluation_is_the_training_forward(change: Change) -> None:
    decoder = made()
    before = evaluated(decoder)
    change(decoder, PROJECTIONS)
    expected = trained(decoder)
    assert expected.requires_grad
    assert not torch.allclose(expected, before), "the change must be one that matters"
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(evaluated(decoder), expected.detach(), rtol=1e-9, atol=1e-9)


def test_a_hook_on_the_embedding_of_vst_tokens_acts() -> None:
    decoder = made()
    before = evaluated(decoder)
    table = decoder.language.get_decoder().beacon_embed_tokens
    table.register_forward_hook(lambda module, given, out: out + 1)
    expected = trained(decoder)
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(evaluated(decoder), expected.detach(), rtol=1e-9, atol=1e-9)
