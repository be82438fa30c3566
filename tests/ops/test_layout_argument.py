"""The layout argument of an op: planned when it is needed, kept by value, taken as it is where it is planned."""

import pytest
import torch

from longreel import PlannedLayout, VideoLayout, block_sparse_attention
from longreel.layout.planned import TILES
from longreel.ops.common.layouts import MOST_PLANS, planned
from longreel.testing.determinism import same_bits

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")
TENSORS = ("start", "global_index", "extent", "bounds", "tiles", "order", "kv_blocks", "query_ranges", "kv_order")


def layout(frames: int = 3) -> VideoLayout:
    return VideoLayout.voco(frames=frames, vision=50, voco=2, text=9, mode="causal")


def tensors(made: VideoLayout, batch: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, made.length, 2, 8, generator=generator) for _ in range(3))


def test_a_layout_is_planned_once_for_its_value() -> None:
    first = planned(layout(), CPU)
    assert planned(layout(), CPU) is first
    assert planned(layout(4), CPU) is not first


def test_the_plans_kept_are_bounded() -> None:
    first = planned(layout(), CPU)
    for frames in range(10, 10 + MOST_PLANS):
        planned(layout(frames), CPU)
    again = planned(layout(), CPU)
    assert again is not first
    assert all(torch.equal(getattr(again, name), getattr(first, name)) for name in TENSORS)


def test_a_plan_is_taken_as_it_is() -> None:
    made = layout().to("cpu", (16, 8))
    assert planned(made, CPU) is made
    assert made.tile == (16, 8)


def test_the_device_chooses_the_tile() -> None:
    assert layout().to("cpu").tile == TILES["cpu"]
    rows, keys = TILES["cuda"]
    assert VideoLayout.causal(1000).to("meta").tile == (rows, keys)
    assert layout().to("meta").tile == (rows // 2, keys), "few rows would leave most of a whole tile masked"


def test_a_plan_moves_with_its_start() -> None:
    start = torch.tensor([4, 0], dtype=torch.int32)
    made = layout().to("cpu", (16, 8)).with_start(start)
    assert made.to("cpu") is made
    moved = made.to("meta")
    assert isinstance(moved, PlannedLayout)
    assert {getattr(moved, name).device.type for name in TENSORS} == {"meta"}
    assert moved.start.shape == start.shape


def test_planned_and_unplanned_give_the_same() -> None:
    made = layout()
    args = tensors(made, 2)
    assert same_bits(block_sparse_attention(*args, made), block_sparse_attention(*args, made.to("cpu")))


def test_an_unplanned_layout_under_compile_is_one_clear_error() -> None:
    made = layout()
    torch._dynamo.reset()
    function = torch.compile(lambda *args: block_sparse_attention(*args), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"must be planned before: pass layout\.to\(device\)"):
        function(*tensors(made), made)


@pytest.mark.slow
def test_a_graph_that_may_break_plans_outside() -> None:
    made = layout()
    args = tensors(made)
    torch._dynamo.reset()
    function = torch.compile(lambda *args: block_sparse_attention(*args) + 1, backend="eager")
    assert same_bits(function(*args, made), block_sparse_attention(*args, made) + 1)


class Model(torch.nn.Module):
    """Two attention layers over one plan, as a language model has them."""

    def __init__(self) -> None:
        super().__init__()
        self.projections = torch.nn.ModuleList(torch.nn.Linear(16, 48) for _ in range(2))

    def forward(self, rows: torch.Tensor, plan: PlannedLayout) -> torch.Tensor:
        for projection in self.projections:
            q, k, v = projection(rows).unflatten(2, (2, 24)).split(8, -1)
            rows = rows + block_sparse_attention(q, k, v, plan).flatten(2)
        return rows


@pytest.mark.slow
def test_a_model_compiles_once_for_any_number_of_frames() -> None:
    """Rows and plan are marked dynamic; neither the layout nor its tensors' sizes become part of the graph."""
    model = Model()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for frames in (3, 5, 8, 30):
        made = layout(frames)
        rows = torch.randn(1, made.length, 16)
        plan = made.to("cpu")
        torch._dynamo.mark_dynamic(rows, 1)
        for name, axis in (("extent", 0), ("bounds", 1), ("global_index", 1), *((name, 0) for name in TENSORS[4:])):
            torch._dynamo.mark_dynamic(getattr(plan, name), axis)
        with torch.compiler.set_stance("default" if frames == 3 else "fail_on_recompile"):
            got = compiled(rows, plan)
        torch.testing.assert_close(got, model(rows, plan))
        got.sum().backward()
