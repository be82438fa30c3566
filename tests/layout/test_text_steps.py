"""Steps of text that are moved instead of planned: the same bounds, tiles that say the same, the same results to the bit."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from longreel import VideoLayout, block_sparse_attention
from longreel.integrations.padding import Gap
from longreel.layout import PlannedLayout, bounded_steps, planning, text_steps
from longreel.layout import steps as layout_steps
from longreel.layout.documents import chunks
from longreel.layout.part import planned_from, planned_vst_rows
from longreel.reference.block_sparse_attention import visible
from longreel.testing.determinism import same_bits

pytestmark = pytest.mark.fast


def voco(frames: int = 3, **more: Any) -> VideoLayout:
    return VideoLayout.voco(
        **{"frames": frames, "vision": 20, "voco": 2, "text": 5, "prefix": 3, "mode": "causal"} | more
    )


BEHIND: dict[str, VideoLayout] = {
    "causal": VideoLayout.causal(9),
    "voco": voco(),
    "independent": voco(mode="independent", text_sees_prefix=True),
    "no-text": voco(text=0),
    "image": voco(1, vision=50, text=4),
    "vst": VideoLayout.vst(visual=50, chunk=16, ratio=4, prefix=3, text=2),
    "packed": VideoLayout.packed([voco(2), VideoLayout.causal(30)]),
    "left-padded": VideoLayout.batch([voco(3), voco(2)]),
    "gap": Gap(6, (9, 6, 20)).shortest(),
}


def planned(behind: VideoLayout | None, first: int, rows: int) -> PlannedLayout:
    """The step, planned anew."""
    whole = VideoLayout.causal(first + rows) if behind is None else behind.extend(first + rows - behind.length)
    return whole.rows(first, first + rows).to("cpu")


def planned_bounded(window: int | None, chunk: int | None, first: int, rows: int, padding: int = 0) -> VideoLayout:
    """Rows in a window, in chunks behind padding, or both."""
    real = first + rows - padding
    lengths = [real] if chunk is None else chunks(real, chunk)
    texts = [VideoLayout.causal(n) if window is None else VideoLayout.sliding_window(n, window) for n in lengths]
    pad = [VideoLayout.of([("padding", padding)])] if padding else []
    return VideoLayout.packed([*pad, *texts]).rows(first, first + rows)


def same_plan(step: PlannedLayout, truth: PlannedLayout) -> None:
    for name in ("bounds", "global_index", "start"):
        assert torch.equal(getattr(step, name), getattr(truth, name)), name
    assert step.extent.shape == truth.extent.shape
    ours, theirs = step.tiles.numpy(), truth.tiles.numpy()
    # sample, rows, first and last key of both ranges
    told = [0, 1, 2, 4, 7, 8, 11]
    assert np.array_equal(ours[:, told], theirs[:, told])
    assert sorted(step.order.tolist()) == list(range(len(ours)))
    for tile in ours:
        lo, hi, glo, ghi = step.bounds[tile[0], tile[1] : tile[2]].T.tolist()
        for (begin, full_begin, full_end, end), a, b in ((tile[4:8], lo, hi), (tile[8:12], glo, ghi)):
            assert begin <= full_begin <= full_end <= end
            assert full_begin == full_end or (max(a) <= full_begin and full_end <= min(b))


def attend(plan: PlannedLayout, keys: int, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, n, heads, 8, generator=generator)
        for n, heads in ((plan.bounds.shape[1], 4), (keys, 2), (keys, 2))
    )
    return block_sparse_attention(q, k, v, plan)


CASES = [*((name, layout) for name, layout in BEHIND.items()), ("text", None)]


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize(("name", "behind"), CASES, ids=[name for name, _ in CASES])
def test_a_moved_plan_is_the_plan(name: str, behind: VideoLayout | None, rows: int) -> None:
    steps = text_steps(behind, rows, "cpu")
    assert steps is not None
    batch = 1 if behind is None else behind.batch_size
    for more in (0, 1, 63, 64, 500):
        first = steps.least + more
        truth = planned(behind, first, rows)
        with torch.no_grad():
            step, on_device = steps.at(first), steps.at(torch.tensor([first]))
            same_plan(step, truth)
            assert torch.equal(step.bounds, on_device.bounds)
            assert torch.equal(step.tiles, on_device.tiles)
            expected = attend(truth, first + rows + 7, batch)
            got = attend(step, first + rows + 7, batch)
            assert same_bits(got, expected)
    with pytest.raises(ValueError, match=f"allowed: from {steps.least} on"):
        steps.at(steps.least - 1)


BOUNDS = [(9, None), (70, None), (1, None), (None, 8), (None, 64), (6, 16)]


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize(("window", "chunk"), BOUNDS)
def test_a_window_or_chunk_is_a_formula_of_the_place(window: int | None, chunk: int | None, rows: int) -> None:
    """Wherever a step begins, in the host's number and in a tensor; in samples padded on the left, over a cache that slides."""
    steps = bounded_steps(rows, "cpu", window=window, chunk=chunk)
    for first in (0, 1, 7, 64, 131):
        pads = [0, min(first, 3), min(first, 11)]
        # Keys that no row sees: before the window, or before the last chunk that ends.
        least = [first if bound is None else max(0, first - bound + 1) for bound in (window, chunk)]
        dropped = min(least)
        with torch.no_grad():
            alone = planned_bounded(window, chunk, first, rows)
            same_rows(steps.at(first), alone.to("cpu"), first + rows)
            same_rows(steps.at(torch.tensor(first)), alone.to("cpu"), first + rows)
            padded = torch.tensor(pads)
            for place in (first - dropped, torch.tensor([first - dropped])):
                plan = steps.at(place, dropped=dropped, padding=padded)
                for b, pad in enumerate(pads):
                    truth = planned_bounded(window, chunk, first, rows, pad).dense_mask()[0, :, dropped:]
                    start = max(0, pad - dropped)
                    seen = visible(first + rows - dropped, plan.bounds, plan.global_index, torch.tensor([start]))
                    seen = seen[min(b, len(seen) - 1)]
                    assert np.array_equal(seen.numpy(), truth)
                check_tiles(plan)


def same_rows(step: PlannedLayout, truth: PlannedLayout, keys: int) -> None:
    assert torch.equal(step.bounds, truth.bounds)
    check_tiles(step)
    torch.testing.assert_close(attend(step, keys + 7, 1), attend(truth, keys + 7, 1))


def check_tiles(step: PlannedLayout) -> None:
    """Every row is in one tile, whose range holds what its rows see, and whose full part all of them see."""
    covered = torch.zeros(step.bounds.shape[:2])
    assert sorted(step.order.tolist()) == list(range(len(step.tiles)))
    for sample, first, last, _, begin, full_begin, full_end, end, *far in step.tiles.tolist():
        covered[sample, first:last] += 1
        lo, hi = step.bounds[sample, first:last, :2].T
        assert (begin, end) == (lo.min(), hi.max())
        assert begin <= full_begin <= full_end <= end
        assert full_begin == full_end or (lo.max() <= full_begin and full_end <= hi.min())
        assert far == [0] * 4
    assert (covered == 1).all()


def test_beams_of_a_layout() -> None:
    steps = text_steps(BEHIND["left-padded"], 1, "cpu", batch=6)
    assert steps is not None
    assert steps.base.bounds.shape[0] == 6
    assert steps.at(90).start.tolist() == [0, 0, 0, 22, 22, 22]


@pytest.mark.parametrize(
    "layout",
    [
        voco().rows(3, 9),
        VideoLayout.vst(visual=16, chunk=16, ratio=4).grouped(),
        VideoLayout.sliding_window(30, 9),
        VideoLayout.batch([voco(3), voco(2)], side="right"),
        VideoLayout.blocks([-1, 0, 0, -1], chunk=3),
    ],
    ids=["a-part", "grouped", "windowed", "right-padded", "in-chunks"],
)
def test_what_is_no_step_is_planned(layout: VideoLayout) -> None:
    assert text_steps(layout, 1, "cpu") is None


def test_planned_once_for_a_layout_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = voco(4)
    first = text_steps(layout, 2, "cpu")
    monkeypatch.setattr(planning, "plan", lambda *_: pytest.fail("planned anew"))
    assert text_steps(layout, 2, "cpu") is first


def test_a_plan_is_never_that_of_a_layout_that_is_gone() -> None:
    """Plans are kept by the identity of a layout: it is held as long as they are, so that no other one has it."""
    ids = set()
    for frames in range(1, 40):
        layout = voco(frames)
        ids.add(id(layout))
        steps = text_steps(layout, 1, "cpu")
        assert steps is not None
        assert steps.least == layout.length
        del layout, steps
    assert len(ids) > len({key for key in layout_steps._CACHED if key[0] in ids}) > 0
    for key, (owner, _) in layout_steps._CACHED.items():
        assert key[0] == id(owner)
    assert len(layout_steps._CACHED) <= layout_steps.MOST_STEPS


def test_a_step_has_no_gradient() -> None:
    steps = text_steps(None, 2, "cpu")
    assert steps is not None
    q = torch.randn(1, 2, 2, 8, requires_grad=True)
    with pytest.raises(ValueError, match="planned for inference and has no gradient"):
        block_sparse_attention(q, torch.randn(1, 9, 2, 8), torch.randn(1, 9, 2, 8), steps.at(7))


def test_vst_rows_alone_have_no_gradient() -> None:
    layout = VideoLayout.vst(visual=16, chunk=16, ratio=4)
    plan = planned_vst_rows(layout, "cpu")
    q, k = torch.randn(1, 4, 2, 8), torch.randn(1, 20, 2, 8)
    alone = block_sparse_attention(q, k, k, plan)
    whole = block_sparse_attention(torch.cat([torch.zeros(1, 16, 2, 8), q], 1), k, k, layout.grouped())
    torch.testing.assert_close(alone, whole[:, 16:])
    with pytest.raises(ValueError, match="planned for inference and has no gradient"):
        block_sparse_attention(q, k.requires_grad_(), k, plan)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("asked", [0, 1, 5])
def test_text_and_vst_rows_alone_with_gradients(backend: str, asked: int) -> None:
    """Of several chunks, whose ratios leave remainders; and rows from the middle of a text on."""
    chunks = VideoLayout.vst(ratio=[(40, 8), (23, 3), (90, 8), (12, 5)], prefix=2, text=asked).grouped()
    raw = chunks.length - 5 - 7 - 11 - 3
    for layout, first in (
        (chunks, raw - asked),
        (VideoLayout.causal(150), 77),
        (VideoLayout.sliding_window(90, 20, 3), 30),
    ):
        q, k, v = (torch.randn(2, layout.length, heads, 8) for heads in (4, 2, 2))
        given = [t.requires_grad_() for t in (q, k, v)]
        whole = block_sparse_attention(q, k, v, layout, backend=backend)[:, first:]
        part = block_sparse_attention(q[:, first:], k, v, planned_from(layout, first, "cpu"), backend=backend)
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)
        out = torch.randn_like(part)
        for got, wanted in zip(
            torch.autograd.grad(part, given, out), torch.autograd.grad(whole, given, out), strict=True
        ):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_rows_that_a_layout_does_not_have() -> None:
    layout = VideoLayout.causal(8)
    for given, first in ((layout, 8), (layout, -1), (layout.rows(2, 4), 0)):
        with pytest.raises(ValueError, match="are planned for a whole layout of one sample"):
            planned_from(given, first, "cpu")


class NothingRead(TorchDispatchMode):
    """Raises where the host would read a tensor, or one would be made from host memory: what graph capture forbids."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        read = any(word in name for word in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "lift_fresh"))
        assert not read, f"{name} waits for the device"
        assert name != "aten::_to_copy" or (kwargs or {}).get("device") is None, "a copy between devices"
        return func(*args, **(kwargs or {}))


def test_a_length_on_the_device_is_never_read() -> None:
    """A step over a cache of fixed size, at a length that the host does not know."""
    steps, length = text_steps(None, 1, "cpu"), torch.tensor([40])
    assert steps is not None
    q, k = torch.randn(1, 1, 4, 8), torch.randn(1, 64, 2, 8)
    expected = block_sparse_attention(q, k[:, :41], k[:, :41], VideoLayout.causal(41).rows(40, 41))
    with torch.no_grad(), NothingRead():
        out = block_sparse_attention(q, k, k, steps.at(length))
    assert same_bits(out, expected)
    bounded = bounded_steps(1, "cpu", chunk=16)
    pads = torch.tensor([3])
    expected = block_sparse_attention(
        q,
        k[:, :41],
        k[:, :41],
        VideoLayout.causal(41).rows(40, 41).to("cpu").with_start(torch.tensor([35], dtype=torch.int32)),
    )
    with torch.no_grad(), NothingRead():
        out = block_sparse_attention(q, k, k, bounded.at(length, padding=pads))
    assert same_bits(out, expected)
