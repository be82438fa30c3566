"""The kernel in Gluon, its own source, as plain Python: values, its ring of stages in any order of events, what it refuses."""

from collections.abc import Callable

import emulated_gluon
import pytest
import torch
from gluon_parts import Hang

from longreel.layout import PlannedLayout, VideoLayout
from longreel.ops.common import hopper
from longreel.ops.registry import OPS
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case, Inputs
from longreel.testing.cases.layouts import layout_case
from longreel.testing.runner import prepare, yardstick

pytest.importorskip("triton", reason="triton is not installed")

OP = "block_sparse_attention"
WHOLE, HALF = (128, 64), (64, 64)


def served(case: Case) -> bool:
    """Any number of elements that is whole 16 bytes can be emulated."""
    inputs = case.inputs()
    return inputs["q"].numel() > 0 and inputs["k"].numel() > 0 and inputs["q"].shape[-1] % 8 == 0


CASES = [case for case in corners(OP).cases() if served(case) and "head-size" not in case.name]


def compute(
    inputs: Inputs, seed: int = 0, stages: int | None = None, edit: Callable[[str], str] = lambda source: source
) -> dict[str, torch.Tensor]:
    from longreel.triton_kernels.block_sparse_attention.launch import call_of

    call = call_of(*OPS[OP].lowered(**inputs).args)
    with emulated_gluon.emulated(seed, edit) as module:
        if stages is not None:
            module.STAGES = stages
        return dict(zip(("out", "lse"), module.forward(call), strict=True))


def planned(case: Case, tile: tuple[int, int], dtype: torch.dtype = torch.float16) -> Inputs:
    inputs = case.inputs()
    if not isinstance(inputs["layout"], PlannedLayout):
        inputs["layout"] = inputs["layout"].to("cpu", tile=tile)
    return prepare(inputs, dtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_reference(case: Case) -> None:
    inputs = planned(case, WHOLE)
    yardstick(OP, inputs, torch.float16, ()).check(compute(inputs))


def voco(frames: int) -> VideoLayout:
    return VideoLayout.voco(frames=frames, vision=70, voco=3, text=21, prefix=7, mode="causal")


SMALL = layout_case("small", voco, heads=(2, 1), width=64, batch=1)


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("tile", [WHOLE, HALF], ids=["whole", "half"])
def test_any_ring_in_any_order(stages: int, tile: tuple[int, int]) -> None:
    """The same bits whatever runs first and whenever a copy arrives; fewer tiles than stages, and many more."""
    inputs = planned(SMALL, tile, torch.bfloat16)
    first = compute(inputs, 0, stages)
    yardstick(OP, inputs, torch.bfloat16, ()).check(first)
    for seed in (1, 2):
        assert all(torch.equal(value, first[name]) for name, value in compute(inputs, seed, stages).items())


def test_samples_that_do_not_stand_as_rows_are_not_for_the_copy_engine() -> None:
    inputs = planned(layout_case("cache", voco, heads=(2, 1), width=16, batch=2), WHOLE)
    yard = yardstick(OP, inputs, torch.float16, ())
    for name in ("k", "v"):
        room = torch.full((2, inputs[name].shape[1] + 40, 1, 16), torch.nan, dtype=torch.float16)
        inputs[name] = room[:, : inputs[name].shape[1]].copy_(inputs[name])
    yard.check(compute(inputs))


def test_what_lies_behind_the_keys_may_be_anything() -> None:
    """A cache that is not full: the last tile reads zeros there."""
    inputs = planned(layout_case("cache", voco, heads=(2, 1), width=16, batch=1, beyond=64), WHOLE)
    yard = yardstick(OP, inputs, torch.float16, ())
    for name in ("k", "v"):
        inputs[name][:, -64:] = torch.nan
    yard.check(compute(inputs))


WAITS_TO_BRING = "mbarrier.wait(empty.index(stage), (i // STAGES & 1) ^ 1)"
WAITS_TO_TAKE = "mbarrier.wait(full.index(stage), i // STAGES & 1)"
GIVES_BACK = "mbarrier.arrive(empty.index(stage), count=1)"


@pytest.mark.parametrize(
    ("line", "instead", "error"),
    [
        (WAITS_TO_BRING, "mbarrier.wait(empty.index(stage), 1)", AssertionError),
        (WAITS_TO_TAKE, "pass", AssertionError),
        (GIVES_BACK, "pass", Hang),
        ("first = first + half * ROWS", "first = first + ROWS", AssertionError),
    ],
    ids=["overwrites", "reads early", "is not given back", "other rows"],
)
def test_the_emulator_sees(line: str, instead: str, error: type[Exception]) -> None:
    """What a wrong ring does."""
    inputs = planned(SMALL, WHOLE)
    yard = yardstick(OP, inputs, torch.float16, ())

    def edit(source: str) -> str:
        assert line in source
        return source.replace(line, instead)

    def some_order() -> None:
        for seed in range(5):
            yard.check(compute(inputs, seed, 2, edit))

    with pytest.raises(error):
        some_order()


def test_what_it_does_not_take() -> None:
    q = torch.zeros(1, 5, 2, 128, dtype=torch.float16)
    assert hopper.refused_by_gluon((q, q, q)) is None
    assert hopper.refused_by_gluon((q[..., :80],)) == "takes heads of 64 and 128, given 80"
    whole = "takes heads that are whole 16 bytes at addresses that are multiples of 16"
    wide = torch.zeros(1, 5, 2, 136, dtype=torch.float16)
    for tensor in (
        wide[..., 4:132],
        torch.zeros(1, 5, 2, 132, dtype=torch.float16)[..., :128],
        wide.expand(2, 5, 2, 136),
    ):
        assert hopper.refused_by_gluon((q, tensor)) == (None if tensor.shape[0] == 2 else whole)


def test_triton_without_gluon_is_said() -> None:
    from longreel import backends

    assert backends._gluon("3.6.0") is None
    assert backends._gluon("3.5.1") == "is written in Gluon as of triton 3.6, here is 3.5.1"
