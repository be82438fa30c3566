"""VideoLayout by hand: constructors, equality, growth, errors; plans on a device; cost; pictures."""

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from longreel.layout import (
    Segment,
    VideoLayout,
    cached,
    cached_ranges,
    cost,
    executed_pairs,
    flashmask_row_indices,
    flex_block_mask,
    global_index,
    global_positions,
    ignored_labels,
    positions,
    slots,
    to_ascii,
    to_svg,
    visible_pairs,
)
from longreel.layout._cost import floor_sum
from longreel.reference.block_sparse_attention import block_sparse_attention

pytestmark = pytest.mark.fast

VIDEO = {"frames": 3, "vision": 5, "voco": 2, "text": 4, "prefix": 2, "separator": 1}


def test_equal_by_value() -> None:
    one, two = VideoLayout.voco(**VIDEO), VideoLayout.voco(**VIDEO)
    assert one == two
    assert hash(one) == hash(two)
    assert one != VideoLayout.voco(**VIDEO, mode="causal")
    assert one.rows(0, 3) != one
    frame = [("vision", 5), ("text", 1), ("voco", 2)]
    assert one == VideoLayout.of([("prefix", 2), *frame * 3, ("text", 4)], attention="independent")
    image = VideoLayout.voco(frames=1, vision=4, voco=2, text=3, prefix=1, separator=1)
    assert VideoLayout.from_kinds([[1, 2, 2, 2, 2, 1, 3, 3, 1, 1, 1]]) == image
    assert (
        VideoLayout.from_kinds(torch.tensor([[1, 1, 1]])).dense_mask().tolist()
        == VideoLayout.causal(3).dense_mask().tolist()
    )


def test_repr_is_short() -> None:
    text = repr(VideoLayout.voco(frames=3600, vision=576, voco=1, text=64))
    assert len(text) < 200
    assert "2077264 rows" in text


def test_vst_ratios() -> None:
    same = VideoLayout.vst(visual=40, chunk=16, ratio=4, prefix=1, text=2)
    assert same == VideoLayout.vst(ratio=[(16, 4), (16, 4), (8, 4)], prefix=1, text=2)
    mixed = VideoLayout.vst(visual=48, chunk=16, ratio_mix=(2, 4, 8), seed=7)
    assert mixed == VideoLayout.vst(visual=48, chunk=16, ratio_mix=(2, 4, 8), seed=7)
    generator = np.random.default_rng(42)
    drawn = [VideoLayout.vst(visual=1440, ratio_mix=(2, 4, 8), seed=generator) for _ in range(6)]
    assert [layout.samples[0][0].segments[0].ratio for layout in drawn] == [2, 8, 4, 4, 4, 8]


def test_vst_memory_is_what_video_xl_keeps() -> None:
    layout = VideoLayout.vst(visual=2880, ratio=8, prefix=14, text=20)
    assert cached(layout) == [14 + 360 + 20]
    assert cached_ranges(layout)[0].tolist() == [[0, 14, 1], [22, 180, 9], [1642, 180, 9], [3254, 20, 1]]
    # A VST key moves from its place in the chunk to its place in the memory.
    assert global_index(layout)[0, 14] == 22
    assert positions(layout)[0, 22] == 22
    assert global_positions(layout)[0].tolist() == list(range(374))


def test_compact_positions_of_voco_video() -> None:
    layout = VideoLayout.voco(**VIDEO)
    assert positions(layout)[0].tolist() == [0, 1, *range(2, 10), *range(4, 12), *range(6, 14), *range(14, 18)]
    assert positions(layout, "absolute")[0].tolist() == list(range(30))
    with pytest.raises(ValueError, match="images keep absolute"):
        positions(VideoLayout.voco(frames=1, vision=2, voco=1, text=1), "compact")


def test_labels_are_the_text_after_the_video() -> None:
    assert ignored_labels(VideoLayout.voco(**VIDEO))[0].tolist() == [True] * 26 + [False] * 4
    assert not ignored_labels(VideoLayout.causal(3)).any()
    packed = VideoLayout.packed([VideoLayout.causal(2), VideoLayout.voco(frames=1, vision=2, voco=1, text=1)])
    assert ignored_labels(packed)[0].tolist() == [False, False, True, True, True, False]


def test_sliding_window_keeps_what_the_next_row_sees() -> None:
    assert np.flatnonzero(slots(VideoLayout.sliding_window(20, 5, 2))[0] >= 0).tolist() == [0, 1, 16, 17, 18, 19]


def test_padding_and_growth() -> None:
    batch = VideoLayout.batch([VideoLayout.causal(3), VideoLayout.voco(**VIDEO)])
    assert (batch.length, batch.start) == (30, (27, 0))
    assert batch.extend(2).rows(30, 32).dense_mask()[0, -1].nonzero()[0].tolist() == [27, 28, 29, 30, 31]
    right = VideoLayout.batch([VideoLayout.causal(3), VideoLayout.causal(4)], "right")
    with pytest.raises(ValueError, match="the last document is padding"):
        right.extend(1)


@pytest.mark.parametrize("mode", ["independent", "causal"])
@pytest.mark.parametrize("flags", [{}, {"frames_see_prefix": True}, {"text_sees_prefix": True}], ids=str)
def test_padding_behind_frames_is_as_if_it_were_not_there(mode: str, flags: dict[str, bool]) -> None:
    frames = [("prefix", 2), *[("vision", 3), ("voco", 2)] * 2]
    real = np.array([True] * 12 + [False] * 4 + [True] * 6)
    padded, plain = (
        VideoLayout.of([*frames, *gap, ("text", 5)], attention=mode, **flags).extend(1)
        for gap in ([("padding", 4)], [])
    )
    mask = padded.dense_mask()[0]
    assert np.array_equal(mask[np.ix_(real, real)], plain.dense_mask()[0])
    assert not mask[~real].any()
    assert not mask[:, ~real].any()
    assert np.array_equal(padded.rows(14, 22).dense_mask()[0], mask[14:])
    assert np.array_equal(padded.rows(14, 22).plan().bounds, padded.plan().bounds[:, 14:])
    for at in ("compact", "absolute"):
        assert np.array_equal(positions(padded, at)[0][real], positions(plain, at)[0])  # type: ignore[arg-type]
    assert np.array_equal(slots(padded)[0][real], slots(plain)[0])
    for wrong in ([*frames, ("text", 1), ("padding", 1)], [("vision", 2), ("padding", 1), ("voco", 1)]):
        with pytest.raises(ValueError, match="behind the last frame"):
            VideoLayout.of([*wrong, ("text", 1)], attention=mode)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VideoLayout.voco(frames=0, vision=1, voco=1, text=1), "frames=0 is below 1"),
        (lambda: VideoLayout.voco(**VIDEO, mode="both"), "mode='both' is not one of"),
        (lambda: VideoLayout.voco(**VIDEO, prefix_visible_to="text"), "prefix_visible_to='text' is not one of"),
        (lambda: VideoLayout.vst(visual=4), "give ratio="),
        (lambda: VideoLayout.vst(visual=4, ratio=0), "ratio 1, given 4 tokens at ratio 0"),
        (lambda: VideoLayout.vst(visual=9, ratio=[(4, 2)]), "chunks of ratio= hold 4"),
        (lambda: VideoLayout.vst(ratio=[(7, 8), (4, 2)]), "7 visual tokens are carried into a chunk of ratio 2"),
        (lambda: VideoLayout.vst(visual=9, chunk=9, ratio_mix=(2, 4)), "divides a chunk of 9"),
        (lambda: VideoLayout.from_kinds([[0, 4]]), "kinds are 0 padding, 1 text, 2 vision, 3 VoCo; given 0 .. 4"),
        (lambda: VideoLayout.from_kinds([[2, 0, 3]]), "padding stands between documents"),
        (lambda: VideoLayout.from_kinds([1, 2]), r"\[B, S\], given int64 \[2\]"),
        (lambda: VideoLayout.of([("image", 3)]), "unknown segment kind 'image'"),
        (lambda: VideoLayout.of([("text", -1)]), "rows of a text segment=-1 is below 0"),
        (
            lambda: VideoLayout.of([("text", 2), ("vst", 3)]),
            "attention 'text' takes any segments but vst; given: text vst",
        ),
        (lambda: VideoLayout.of([("vision", 2), ("prefix", 3)], attention="causal"), "takes prefix, then frames"),
        (lambda: VideoLayout.of([Segment("vst", 5, 4), Segment("voco", 1)], attention="vst"), "given: vst voco"),
        (lambda: VideoLayout.batch([]), "no sample"),
        (lambda: VideoLayout((VideoLayout.causal(2).samples[0], VideoLayout.causal(3).samples[0])), r"given \[2, 3\]"),
        (lambda: VideoLayout.causal(3).rows(1, 4), r"rows \(1, 4\) are not inside 0 .. 3"),
        (lambda: VideoLayout.causal(2**31), "at most 2\\^31 - 1 rows"),
        (lambda: VideoLayout.sliding_window(4, 0), "window=0"),
        (lambda: VideoLayout.causal(3).plan((0, 4)), "tile's rows=0 is below 1"),
        (
            lambda: VideoLayout.of([("vision", 3), ("voco", 1)], attention="Causal"),
            "'Causal' is not one of text, image",
        ),
        (lambda: VideoLayout.causal(3.0), "rows of a text segment is a whole number; given 3.0"),
        (lambda: VideoLayout.sliding_window(6, 2.5), "window is a whole number; given 2.5"),
        (lambda: VideoLayout.causal(5).rows(1.5, 3), r"a bound of rows \(1.5, 3\) is a whole number; given 1.5"),
        (lambda: VideoLayout.voco(frames=10**9, vision=8, voco=1, text=1), "at most 2\\^31 - 1 rows, given 9000000001"),
        (lambda: VideoLayout.causal(5).to("cpu").with_start([1]), r"a tensor int32 \[B\]; given list"),
        (lambda: VideoLayout.causal(20_000).dense_mask(), "above the limit"),
        (lambda: VideoLayout.causal(4).rows(0, 2).grouped(), "of a grouped layout"),
    ],
)
def test_bad_input_is_one_clear_error(make, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_an_hour_is_planned_in_segments() -> None:
    layout = VideoLayout.voco(frames=3600, vision=576, voco=1, text=64, mode="causal")
    schedule = layout.plan((64, 64))
    assert schedule.nbytes < 64 << 20
    assert visible_pairs(layout) == 3600 * 577 * 578 // 2 + 577 * 3600 * 3599 // 2 + 64 * 3600 + 64 * 65 // 2
    assert len(schedule.tiles) == -(-layout.length // 64), "tiles run across the borders of frames"
    assert len(layout.plan((16, 64), bounds=False).tiles) == 3600 * 37 + 4, "strips stop at them"
    assert schedule.tiles[:, 2].max() == layout.length


@pytest.mark.parametrize("mode", ["independent", "causal"])
def test_executed_work_is_near_the_visible(mode: str) -> None:
    voco = VideoLayout.voco(frames=64, vision=576, voco=1, text=64, mode=mode)
    vst = VideoLayout.vst(visual=64 * 144, ratio=8, prefix=14, text=64)
    for layout in (voco, vst, vst.grouped()):
        figures = cost(layout, heads=8, head_dim=64, schedule=layout.plan((64, 64)), lanes=(16, 16))
        assert figures.overhead is not None
        assert 1 <= figures.overhead <= 1.25
        assert figures.dense == 4 * 64 * 8 * layout.length**2


def test_cost_counts_by_hand() -> None:
    layout = VideoLayout.causal(4)
    figures = cost(layout, heads=2, kv_heads=1, head_dim=8, element_size=2, schedule=layout.plan((4, 4)))
    assert (figures.visible, figures.executed, figures.dense) == (4 * 8 * 2 * 10, 4 * 8 * 2 * 16, 4 * 8 * 2 * 16)
    assert figures.bytes == 8 * 2 * (2 * 2 * 4 + 2 * 4)
    assert executed_pairs(layout.plan((2, 2))) == 4 + 8
    for n, m, a, b in ((0, 3, 2, 1), (7, 3, 5, 4), (9, 8, 9, 5), (11, 5, 0, 7)):
        assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


def test_flashmask_says_what_it_cannot_hold() -> None:
    video = VideoLayout.voco(frames=2, vision=2, voco=1, text=2)
    assert flashmask_row_indices(video)[0, 0].tolist() == [
        [3, 8],
        [3, 8],
        [3, 6],
        [6, 8],
        [6, 8],
        [8, 8],
        [8, 8],
        [8, 8],
    ]
    with pytest.raises(ValueError, match="two intervals"):
        flashmask_row_indices(VideoLayout.packed([video, video]))


def test_block_mask_visits_few_blocks() -> None:
    layout = VideoLayout.voco(frames=64, vision=576, voco=1, text=64)
    mask = flex_block_mask(layout)
    assert mask.shape == (1, 1, layout.length, layout.length)
    assert mask.sparsity() > 97


def test_a_plan_reaches_the_device_as_int32() -> None:
    plan = VideoLayout.voco(**VIDEO).to("cpu", tile=(4, 4))
    for tensor in (
        plan.start,
        plan.global_index,
        plan.bounds,
        plan.tiles,
        plan.order,
        plan.kv_blocks,
        plan.query_ranges,
        plan.kv_order,
    ):
        assert tensor.dtype == torch.int32
        assert tensor.is_contiguous()
    moved = plan.with_start(torch.tensor([1, 2, 3], dtype=torch.int32))
    assert moved.tiles is plan.tiles
    with pytest.raises(ValueError, match="start is int32"):
        plan.with_start(torch.tensor([1, 2]))


@pytest.mark.slow
def test_a_compiled_graph_serves_any_number_of_frames() -> None:
    counter = CompileCounter()

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def seen(plan, x):
        rows = plan.bounds[..., 1] - plan.bounds[..., 0] + plan.bounds[..., 3] - plan.bounds[..., 2]
        return x * rows[..., None], plan.tiles.sum() + plan.global_index.shape[1] + plan.tile[0]

    for frames in (2, 3, 5):
        layout = VideoLayout.voco(frames=frames, vision=3, voco=1, text=2, mode="causal")
        out, _ = seen(layout.to("cpu", tile=(4, 4)), torch.ones(1, layout.length, 7))
        assert out[..., 0].sum() == visible_pairs(layout)
    assert counter.frame_count == 1


def test_left_padding_from_the_device_equals_padding_in_the_layout() -> None:
    starts = [2, 0, 5]
    tokens = torch.randn(3, 3, 9, 2, 4, dtype=torch.float64)
    shared = VideoLayout.causal(9).to("cpu").with_start(torch.tensor(starts, dtype=torch.int32))
    padded = VideoLayout.batch([VideoLayout.causal(9 - start) for start in starts]).to("cpu")
    outs = [
        block_sparse_attention(*tokens, None, None, plan.bounds, plan.global_index, plan.start, 0.5)
        for plan in (shared, padded)
    ]
    for own, other in zip(*outs, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
    out, lse = outs[0]
    assert (out[0, :2] == 0).all()
    assert (lse[2, :, :5] == -torch.inf).all()


@pytest.mark.slow
def test_reference_passes_gradcheck_with_moved_global_keys() -> None:
    layout = VideoLayout.batch([VideoLayout.vst(visual=4, chunk=2, ratio=2, prefix=1, text=1), VideoLayout.causal(3)])
    plan = layout.to("cpu")
    sizes = [(8, 2), (8, 1), (8, 1), (plan.global_index.shape[1], 1), (plan.global_index.shape[1], 1)]
    inputs = [torch.randn(2, rows, heads, 2, dtype=torch.float64, requires_grad=True) for rows, heads in sizes]

    def out(*tensors):
        return block_sparse_attention(*tensors, plan.bounds, plan.global_index, plan.start, 0.8)[0]

    assert torch.autograd.gradcheck(out, inputs)
    gradients = torch.autograd.grad(out(*inputs).sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][1, :5] == 0).all()


def test_reference_reads_a_cache_that_holds_more() -> None:
    layout = VideoLayout.sliding_window(12, 4, 2).rows(9, 12)
    q, k, v = (torch.randn(1, n, 1, 4, dtype=torch.float64) for n in (3, 20, 20))
    plan = layout.to("cpu")
    out, lse = block_sparse_attention(q, k, v, None, None, plan.bounds, plan.global_index, plan.start, 0.5)
    mask = torch.from_numpy(layout.dense_mask())
    want = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k[:, :12], v[:, :12])), attn_mask=mask, scale=0.5
    )
    torch.testing.assert_close(out, want.transpose(1, 2))
    assert lse.shape == (1, 1, 3)


def test_pictures() -> None:
    layout = VideoLayout.voco(frames=2, vision=2, voco=1, text=2, mode="causal")
    assert to_ascii(layout).splitlines()[:9] == [
        "  vvVvvVtt",
        "v █",
        "v ██",
        "V ███",
        "v   ██",
        "v   ███",
        "V   ████",
        "t   █  ██",
        "t   █  ███",
    ]
    long = VideoLayout.vst(visual=28_800, ratio=8, prefix=14, text=500)
    assert max(map(len, to_ascii(long, width=40).splitlines()[:-1])) <= 42
    svg = to_svg(long.packed([long, layout]), title="a <b>")
    assert svg.count("<polygon") == 22 + 3
    assert "a &lt;b&gt;" in svg
    assert "voco" in svg
