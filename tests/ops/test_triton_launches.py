"""What launches pass to Triton's compiler, recorded on the `meta` device: no card, no interpreter, no compilation."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from longreel.triton_kernels.block_sparse_attention import block_sparse_attention, block_sparse_attention_backward
from longreel.triton_kernels.common.aot import Launch, launches_of, recorded
from longreel.triton_kernels.common.bound import kinds as of_arguments
from longreel.triton_kernels.common.card import LARGE_SHARED, Card
from longreel.triton_kernels.compress_frames import compress_frames, compress_frames_backward
from longreel.triton_kernels.qformer_attention import qformer_attention, qformer_attention_backward
from longreel.triton_kernels.vst_append_ import vst_append_
from longreel.triton_kernels.vst_attention import vst_attention
from longreel.triton_kernels.vst_rotate import vst_rotate
from triton.runtime import driver

from longreel.layout import VideoLayout
from longreel.layout.planned import TILES

pytestmark = pytest.mark.fast
ROOT = Path(__file__).parents[2]
BUDGETS = ROOT / "tests/budgets"
CARD = Card(50 << 20, LARGE_SHARED, 132, wgmma=True)
HEADS, KV_HEADS, WIDTH = 32, 4, 64
POOL = (0, 16, 16, 16, 4, 4)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def attention(frames: int, text: int, rows: int, batch: int) -> None:
    """Forward and backward of the last `rows` rows."""
    layout = VideoLayout.voco(frames=frames, vision=100, voco=3, text=text, prefix=2, mode="causal")
    layout = layout.rows(layout.queries - rows, layout.queries)
    plan = layout.to("cpu", tile=TILES["cuda"])
    sizes = ((layout.queries, HEADS), (layout.keys, KV_HEADS), (layout.keys, KV_HEADS))
    q, k, v = (empty(batch, length, heads, WIDTH) for length, heads in sizes)
    tensors = (
        plan.global_index, plan.start, plan.bounds, plan.tiles, plan.order, plan.kv_blocks, plan.query_ranges, plan.kv_order,
    )  # fmt: skip
    given = (q, k, v, None, None, *(t.to("meta") for t in tensors), *plan.tile, 0.1)
    out, lse = block_sparse_attention(*given)
    block_sparse_attention_backward(out, lse, *given, out, lse, 1, 1, 1)


def frames(count: int) -> None:
    query, patches = empty(1, 1, 32, 64), empty(count, 256, 64)
    context, content, weights, lse = compress_frames(query, patches, None, 0.1, *POOL)
    compress_frames_backward(context, content, weights, query, patches, None, lse, 0.1, *POOL, 1, 1)


def memory(text: int, chunk: int, capacity: int, batch: int) -> None:
    """A chunk, and rows of text, behind a memory."""
    layouts = VideoLayout.vst(ratio=[(chunk, 8)]).grouped(), VideoLayout.causal(text)
    mem_k, mem_v = (empty(batch, KV_HEADS, capacity, WIDTH) for _ in range(2))
    length = empty(batch, dtype=torch.int32)
    for layout, before in zip(layouts, (None, length), strict=True):
        plan, rows = layout.to("cpu", tile=TILES["cuda"]), layout.queries
        q, k, v = (empty(batch, rows, heads, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS))
        table, bounds = empty(1, rows, WIDTH // 2, dtype=torch.float32), plan.bounds.to("meta")
        vst_rotate(q, k, v, table, table, bounds)
        vst_append_(mem_k, mem_v, length, k, v, table[0], table[0])
        tables = (bounds, plan.tiles.to("meta"), plan.order.to("meta"))
        vst_attention(q, k, v, mem_k, mem_v, length, None, before, *tables, *plan.tile, 0.1)


def few_queries(batch: int, frames: int, per_frame: int) -> None:
    """Forward and backward of queries that all samples share."""
    keys, size = frames * per_frame, HEADS * WIDTH
    query, w, bias, table = empty(1, 32, size), empty(size, 96), empty(size), empty(frames, 96)
    mask = empty(batch, keys, dtype=torch.bool)
    given = (query, empty(batch, keys, 96), w, w, bias, mask, table, per_frame, HEADS, 0.1)
    out, lse = qformer_attention(*given)
    qformer_attention_backward(out, *given, out, lse, 1, 1, 1, 1, 1, 1)


def kinds(launches: list[Launch]) -> set[str]:
    return {repr(launch) for launch in launches}


@pytest.mark.parametrize("rows", [1, 600])
def test_no_length_compiles_attention_anew(rows: int) -> None:
    with recorded(CARD) as launches:
        attention(3, 301, rows, 1)
    first = kinds(launches)
    assert len(first) == len(launches) == (6 if rows == 1 else 5)
    for case in ((4, 304, rows, 1), (16, 399, rows, 1), (7, 320, rows, 2), (3, 301, rows, 16)):
        with recorded(CARD) as launches:
            attention(*case)
        assert kinds(launches) == first, case


@pytest.mark.parametrize("text", [1, 600])
def test_no_length_compiles_memory_anew(text: int) -> None:
    with recorded(CARD) as launches:
        memory(text, 1440, 20001, 1)
    first = kinds(launches)
    # the rotation and the append once; attention of few rows in two kernels
    assert len(first) == (5 if text == 1 else 4)
    for case in ((text, 1440, 18432, 1), (text, 1300, 301, 2), (text, 720, 16, 3)):
        with recorded(CARD) as launches:
            memory(*case)
        assert kinds(launches) == first, case


def test_no_number_of_frames_compiles_frames_anew() -> None:
    with recorded(CARD) as launches:
        frames(300)
    first = kinds(launches)
    assert len({launch.name for launch in launches}) == len(first) == 4
    for count in (301, 1, 16, 3600):
        with recorded(CARD) as launches:
            frames(count)
        assert kinds(launches) == first, count


def test_no_number_of_keys_compiles_few_queries_anew() -> None:
    with recorded(CARD) as launches:
        few_queries(2, 300, 33)
    first = kinds(launches)
    for case in ((3, 300, 35), (9, 301, 40), (16, 290, 64)):
        with recorded(CARD) as launches:
            few_queries(*case)
        assert kinds(launches) == first, case


def variants(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """The same shape at an odd address, with odd strides, with a last stride of 2, with strides of more than 32 bits."""
    size = torch.Size(shape).numel()
    plain = torch.empty(shape, dtype=dtype)
    odd = torch.empty(size + 1, dtype=dtype)[1:].view(shape)
    gaps = torch.empty(*shape[:-1], shape[-1] + 1, dtype=dtype)[..., :-1]
    stepped = torch.empty(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
    far = plain.as_strided(shape, (2**33, *plain.stride()[1:])) if shape[0] == 1 else plain
    return [plain, odd, gaps, stepped, far]


def test_a_bound_launch_is_the_one_that_triton_would_make() -> None:
    """Calls in any order, of addresses, strides, dtypes, sizes and devices that Triton compiles for and others."""
    draw = random.Random(0)
    dtypes = (torch.float16, torch.float32, torch.bfloat16)
    made = {
        (shape, dtype): variants(shape, dtype)
        for dtype in dtypes
        for shape in [(1, 1, h, WIDTH) for h in (HEADS, KV_HEADS)] + [(1, n, KV_HEADS, WIDTH) for n in (16, 301, 2048)]
    }
    memories = {dtype: variants((1, KV_HEADS, 320, WIDTH), dtype) for dtype in dtypes}
    lengths, tables = variants((1,), torch.int32)[:2], variants((320, WIDTH // 2), torch.float32)[:3]
    plan = VideoLayout.causal(1).to("cpu", tile=TILES["cuda"])
    bounds = variants(tuple(plan.bounds.shape), torch.int32)[:2]

    def drawn() -> list[Callable[[], object]]:
        dtype, length, table, bound = (draw.choice(c) for c in (dtypes, lengths, tables, bounds))
        q, own = (draw.choice(made[(1, 1, heads, WIDTH), dtype]) for heads in (HEADS, KV_HEADS))
        k = draw.choice(made[(1, draw.choice((16, 301, 2048)), KV_HEADS, WIDTH), dtype])
        mem = draw.choice(memories[dtype])
        before, start, cos = draw.choice((None, length)), draw.choice((None, length)), table[None, :1]
        at = own if before is None else k
        return [
            lambda: vst_rotate(q, own, own, cos, cos, bound),
            lambda: vst_append_(mem, mem, length, own, own, table, table),
            lambda: vst_attention(
                q, at, at, mem, mem, length, start, before, bound, plan.tiles, plan.order, *plan.tile, 0.1
            ),
        ]

    calls = [call for _ in range(30) for call in drawn()]
    truth = []
    for call in calls:
        with recorded(CARD) as launches:
            call()
        truth.append(launches)
    order = [draw.randrange(len(calls)) for _ in range(4 * len(calls))]
    with recorded(CARD, bound=True) as launches:
        places = []
        for i in order:
            device = draw.randrange(2)
            driver.active.get_current_device = lambda device=device: device
            calls[i]()
            places += [device] * (len(launches) - len(places))
    assert launches == [launch for i in order for launch in truth[i]]
    bound = set(map(id, launches))
    assert len(kinds(launches)) < len(bound) < len(launches) / 2
    assert len(set(zip(map(id, launches), places, strict=True))) == len(bound), "one is of another device"


def test_a_bound_launch_asks_for_tensors_and_numbers_alone() -> None:
    with pytest.raises(TypeError, match="an argument of a kernel is a str; allowed: tensors, numbers, None"):
        of_arguments((torch.empty(1), 1, "1"))


def test_every_op_has_launches_with_a_budget() -> None:
    rooms = {path.stem for path in (ROOT / "triton_kernels").iterdir()} - {
        "__init__",
        "__pycache__",
        "common",
        "frames",
    }
    assert {"block_sparse_attention", "context_attention"} <= rooms
    assert [f"tests/budgets/{op}.py is missing" for op in sorted(rooms) if not (BUDGETS / f"{op}.py").exists()] == []


def test_kernels_have_few_parameters() -> None:
    with recorded(CARD) as launches:
        attention(3, 301, 600, 1)
        attention(3, 301, 1, 1)
        frames(3)
        memory(1, 1440, 301, 1)
        few_queries(2, 3, 32)
    assert {launch.name: len(launch.types) for launch in launches if len(launch.types) > 31} == {}


def test_a_launch_that_is_not_made_is_an_error() -> None:
    with pytest.raises(AssertionError, match="not launched: forward of frames"):
        launches_of(CARD, {"frames_forward_kernel": "forward of frames"}, attention, 3, 301, 1, 1)
