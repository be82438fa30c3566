"""block_sparse_attention's Triton kernels beside its cases, in Triton's interpreter (see interpreted_kernels.py)."""

from collections.abc import Sequence

import pytest
import torch

from longreel.layout import VideoLayout, schedule
from longreel.ops.registry import OPS
from longreel.testing import poison
from longreel.testing.cases.case import Case, Inputs
from longreel.testing.cases.layouts import layout_case
from longreel.testing.runner import Variant, layouts, low_level, prepare, run, yardstick

DIFFERENTIABLE = OPS["block_sparse_attention"].differentiable
OP = "block_sparse_attention"
TRITON = Variant(OP, "triton", "cpu")


def check(inputs: Inputs, dtype: torch.dtype, wanted: Sequence[str] = DIFFERENTIABLE) -> None:
    inputs = prepare(inputs, dtype)
    wanted = [name for name in wanted if name in inputs]
    with poison():
        got = run(OP, low_level(TRITON), inputs, wanted)
    yardstick(OP, inputs, dtype, wanted).check(got.everything)


def voco(frames: int) -> VideoLayout:
    return VideoLayout.voco(frames=frames, vision=20, voco=3, text=12, prefix=2, mode="causal", text_sees_prefix=True)


SMALL = Case("voco", layout_case("voco", voco, batch=1, heads=(2, 1), width=8).make, 6)


@pytest.mark.parametrize(("rows", "heads", "width"), [(4, (6, 2), 16), (30, (2, 1), 16), (3, (2, 1), 80)])
def test_few_rows_split_their_keys(rows: int, heads: tuple[int, int], width: int) -> None:
    """A window of 900 keys and 300 sinks over several programs, not all of which have keys that every row sees."""
    window = VideoLayout.sliding_window(1300, 900, 300).rows(1295 - rows, 1295)
    check(
        layout_case("long", lambda _: window, heads=heads, width=width, batch=1, sharp=3.0, beyond=7).inputs(),
        torch.float32,
        (),
    )


@pytest.mark.parametrize("tile", [(16, 16), (20, 16), (48, 24), (100, 200)])
def test_any_tile_of_the_plan(tile: tuple[int, int]) -> None:
    inputs = SMALL.inputs()
    check(inputs | {"layout": inputs["layout"].to("cpu", tile=tile)}, torch.float32)


def test_global_keys_summed_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "BLOCK_ROWS", 20)
    inputs = SMALL.inputs()
    planned = inputs["layout"].to("cpu", tile=(16, 16))
    keys = [tuple(block[:3]) for block in planned.kv_blocks.tolist()]
    assert len(set(keys)) < len(keys)
    check(inputs | {"layout": planned}, torch.float32)


@pytest.mark.parametrize("kind", ["gaps", "stepped", "swapped", "repeated"])
def test_any_strides(kind: str) -> None:
    inputs = layout_case("global", voco, batch=2, heads=(2, 1), width=5, own_globals=True, frames=2).inputs()
    moved = {name: layouts(inputs[name])[kind] for name in DIFFERENTIABLE}
    check(inputs | moved, torch.float32, ("q",) if kind == "stepped" else DIFFERENTIABLE)


@pytest.mark.parametrize("wanted", [("q",), ("k", "v"), ("global_k", "global_v")])
def test_gradients_not_asked_for_are_empty(wanted: tuple[str, ...]) -> None:
    inputs = layout_case("global", voco, batch=1, heads=(1, 1), width=4, own_globals=True, frames=2).inputs()
    check(inputs, torch.float32, wanted)
