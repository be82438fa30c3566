"""What launches pass to Triton's compiler, recorded on the `meta` device: no card, no interpreter, no compilation."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from launched_forms import FORMS, Lengths
from longreel.triton_kernels.common.aot import Launch, launches_of, recorded
from longreel.triton_kernels.common.bound import kinds as of_arguments
from longreel.triton_kernels.common.card import LARGE_SHARED, Card
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


def kinds(launches: list[Launch]) -> set[str]:
    return {repr(launch) for launch in launches}


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


def test_a_launch_that_is_not_made_is_an_error() -> None:
    with pytest.raises(AssertionError, match="not launched: forward of frames"):
        launches_of(CARD, {"frames_forward_kernel": "forward of frames"}, FORMS["vst_append_"]["rows"], Lengths())
