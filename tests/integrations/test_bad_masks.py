"""A 2-D mask and a layout of other sizes than the input: as eager has it, or one line."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from longreel import VideoLayout

pytestmark = pytest.mark.fast
ROWS = 7
IDS = torch.randint(3, 40, (2, ROWS), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="eager", initializer_range=0.2,
    )  # fmt: skip
    eager = LlamaForCausalLM(config).eval()
    ours = deepcopy(eager)
    ours.set_attn_implementation("longreel")
    return ours, eager


def padded(samples: int, columns: int) -> torch.Tensor:
    mask = torch.ones(samples, columns, dtype=torch.long)
    mask[1:2, :3] = 0
    return mask


@torch.no_grad()
@pytest.mark.parametrize(("samples", "columns"), [(2, ROWS), (2, ROWS + 4), (3, ROWS), (3, ROWS + 1)])
def test_masks_of_more_than_the_input(pair: tuple[Any, Any], samples: int, columns: int) -> None:
    mask = padded(samples, columns)
    got, expected = (model(IDS, attention_mask=mask).logits for model in pair)
    real = mask[:2, :ROWS].bool()
    torch.testing.assert_close(got[real], expected[real], atol=1e-5, rtol=0)
    under = pair[0](IDS, attention_mask=mask, video_layout=VideoLayout.batch([VideoLayout.causal(n) for n in (7, 4)]))
    torch.testing.assert_close(under.logits[real], expected[real], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (padded(2, ROWS)[:1], r"the attention mask is \[1, 7\], the input has 2 samples"),
        (padded(2, ROWS)[0], r"the attention mask is \[7\], the input has 2 samples; allowed: \[samples, rows\]"),
        (torch.ones(2, ROWS, ROWS).tril().bool(), r"\[2, 7, 7\], the input has 2 samples"),
        (padded(2, ROWS - 2), r"the attention mask is \[2, 5\], the rows so far are 7"),
    ],
)
def test_masks_of_less_are_refused(pair: tuple[Any, Any], mask: torch.Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pair[0](IDS, attention_mask=mask)


@pytest.mark.parametrize("layout", [3, torch.ones(ROWS, ROWS).tril().bool()])
def test_what_is_no_layout_is_refused(pair: tuple[Any, Any], layout: Any) -> None:
    with pytest.raises(TypeError, match=r"video_layout is a .*; allowed: VideoLayout, or what"):
        pair[0](IDS, video_layout=layout)
