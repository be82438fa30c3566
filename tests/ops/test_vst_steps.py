"""Video-XL's ops beside the contract: projections, tables, and a step put together from the ops."""

import pytest
import torch
from torch import Tensor

from longreel import VideoLayout, rotary_tables, vst_append_, vst_attention, vst_project, vst_rotate
from longreel.measure.memory import peak_memory
from longreel.reference.vst_project import vst_project as reference
from longreel.rotary import rotated
from longreel.schemas import overload
from longreel.testing.budget import check
from longreel.testing.cases.memory import ints

pytestmark = pytest.mark.fast
HEADS, KV_HEADS, WIDTH = 4, 2, 16
INV_FREQ = 1e6 ** (-torch.arange(0, WIDTH, 2) / WIDTH)


def projected(dtype: torch.dtype, batch: int, bias: bool) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    rows = (HEADS + 2 * KV_HEADS) * WIDTH
    shapes = {"x": (batch, 11, 24), "w_raw": (rows, 24), "w_vst": (rows, 24), "b_raw": (rows,), "b_vst": (rows,)}
    made = {name: torch.randn(*shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return made if bias else made | {"b_raw": None, "b_vst": None}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("n_raw", [0, 8, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_projections(dtype: torch.dtype, n_raw: int, batch: int, bias: bool) -> None:
    """With gradients (one tensor put together) and without (both products into one buffer)."""
    given = projected(dtype, batch, bias)
    heads = {"heads": HEADS, "kv_heads": KV_HEADS}
    wide = {name: None if t is None else t.double() for name, t in given.items()}
    truth, same = reference(**wide, n_raw=n_raw, **heads), reference(**given, n_raw=n_raw, **heads)
    leaf = given | {"x": given["x"].clone().requires_grad_()}
    for name, ours, trained, t, s in zip(
        "qkv",
        vst_project(**given, n_raw=n_raw, **heads),
        vst_project(**leaf, n_raw=n_raw, **heads),
        truth,
        same,
        strict=True,
    ):
        check(name, ours, t, s, dtype)
        check(name, trained.detach(), t, s, dtype)
        assert trained.requires_grad


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"n_raw": 12}, "n_raw of its R rows first; given .*n_raw=12"),
        (
            {"w_vst": torch.zeros(128, 23)},
            r"w_raw and w_vst are \[\(H \+ 2 Hkv\) D, 24\]; given \(128, 24\) and \(128, 23\)",
        ),
        ({"heads": 5}, "128 rows are not those of 9 heads"),
        ({"b_vst": torch.zeros(9)}, r"b_vst is \[128\]; given \[9\]"),
    ],
)
def test_projections_refuse(changed: dict, says: str) -> None:
    given = projected(torch.float32, 1, True) | {"n_raw": 8, "heads": HEADS, "kv_heads": KV_HEADS}
    with pytest.raises(ValueError, match=says):
        vst_project(**given | changed)


def test_tables_are_exact_far_out() -> None:
    """Angles of some hundred thousand in float32 alone would miss by 1e-2."""
    position = torch.tensor([0, 1, 32768, 2**22 + 1])
    cos, sin = rotary_tables(INV_FREQ, position)
    angle = position.double()[:, None] * INV_FREQ.double()
    assert torch.equal(cos, angle.cos().float())
    assert torch.equal(sin, angle.sin().float())
    assert cos.dtype is torch.float32
    with pytest.raises(ValueError, match=r"inv_freq is float32 \[D/2\]"):
        rotary_tables(INV_FREQ.bfloat16(), 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_keys_rotated_at_once_or_one_by_one_are_the_same(dtype: torch.dtype) -> None:
    """Bit for bit, by vst_append_ in any pieces and by vst_rotate."""
    k, v = (torch.randn(1, 30, KV_HEADS, WIDTH).to(dtype) for _ in range(2))
    cos, sin = rotary_tables(INV_FREQ, 50)
    memories = []
    for step in (30, 7, 1):
        mem_k, mem_v = (torch.zeros(1, KV_HEADS, 50, WIDTH, dtype=dtype) for _ in range(2))
        for at in range(0, 30, step):
            vst_append_(mem_k, mem_v, ints(10 + at), k[:, at : at + step], v[:, at : at + step], cos, sin)
        memories.append(torch.stack([mem_k, mem_v]))
    assert torch.equal(memories[0], memories[1])
    assert torch.equal(memories[0], memories[2])
    _, rotated_k, moved_v = vst_rotate(k, k, v, cos[10:40], sin[10:40], VideoLayout.causal(30))
    assert torch.equal(memories[0][0, :, :, 10:40].transpose(1, 2), rotated_k)
    assert torch.equal(moved_v, v)


def test_a_step_equals_the_published_order() -> None:
    """Concatenate, rotate everything anew, expand over heads, mask: a chunk behind a memory, in float64."""
    layout = VideoLayout.vst(ratio=[(24, 4)]).grouped()
    rows, before, generator = layout.queries, 20, torch.Generator().manual_seed(0)

    def normal(n: int, heads: int) -> Tensor:
        return torch.randn(1, n, heads, WIDTH, generator=generator, dtype=torch.float64)

    q, k, v, old_k, old_v = normal(rows, HEADS), *(normal(n, KV_HEADS) for n in (rows, rows, before, before))
    cos, sin = (t.double() for t in rotary_tables(INV_FREQ, 200))
    memory = [torch.zeros(1, KV_HEADS, 60, WIDTH, dtype=torch.float64) for _ in range(2)]
    vst_append_(*memory, ints(0), old_k, old_v, cos, sin)
    here = slice(before, before + rows)
    ours = vst_attention(*vst_rotate(q, k, v, cos[here], sin[here], layout), *memory, ints(before), layout)
    # As published: rows interleaved, positions 0 .. n - 1 for everything.
    place = torch.from_numpy(layout.to("cpu").bounds[0, :, 1].numpy() - 1).long()
    order = place.argsort()
    keys, values = torch.cat([old_k, k[:, order]], 1), torch.cat([old_v, v[:, order]], 1)
    at = [t[: before + rows, None] for t in (cos, sin)]
    keys, queries = rotated(keys, *at), rotated(q[:, order], *(t[before:] for t in at))
    keys, values = (t.repeat_interleave(HEADS // KV_HEADS, 2) for t in (keys, values))
    mask = torch.ones(rows, before + rows, dtype=torch.bool).tril(before)
    scores = torch.einsum("bqhd,bkhd->bhqk", queries, keys).masked_fill(~mask, -torch.inf) * WIDTH**-0.5
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), values)
    torch.testing.assert_close(ours[:, order], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("last", [0, 3, 99, -(2**31), 2**31 - 1])
def test_every_token_is_one_row(last: int) -> None:
    """Low-level: what stands in the table is a token's number and one."""
    bounds = torch.tensor([[0, 1, 0, 0], [0, 2, 0, 0], [0, 3, 0, 0], [0, last, 0, 0]], dtype=torch.int32)[None]
    q, k, angles = torch.ones(1, 4, HEADS, WIDTH), torch.ones(1, 4, KV_HEADS, WIDTH), torch.ones(4, WIDTH // 2)
    with pytest.raises(RuntimeError, match=f"row 3 is token {last - 1} of 4: every token is one row"):
        overload("vst_rotate", "cpu")(q, k, k, angles[None], angles[None], bounds)


def test_what_does_not_fit_leaves_the_memory_alone() -> None:
    memory = torch.zeros(2, KV_HEADS, 8, WIDTH)
    k, (cos, sin) = torch.ones(2, 3, KV_HEADS, WIDTH), rotary_tables(INV_FREQ, 20)
    with pytest.raises(RuntimeError, match="mem_len is 6, with 3 behind it: there is room for 8"):
        vst_append_(memory, memory.clone(), ints(0, 6), k, k, cos, sin)
    short = rotary_tables(INV_FREQ, 7)
    with pytest.raises(
        RuntimeError, match="cos and sin have 7 positions; mem_len is 5, with 3 behind it: 8 are needed"
    ):
        vst_append_(memory, memory.clone(), ints(0, 5), k, k, *short)
    assert not memory.any()
    with pytest.raises(RuntimeError, match="changes mem_k, mem_v in place and has no gradient"):
        vst_append_(memory, memory.clone(), ints(0, 0), k.requires_grad_(), k, cos, sin)


@pytest.mark.parametrize(("dtype", "rows"), [(torch.float32, 1), (torch.bfloat16, 90)], ids=["fp32-1", "bf16-90"])
def test_no_allocation_grows_with_the_memory(dtype: torch.dtype, rows: int) -> None:
    """A chunk's step and a decoding step over 8,192 and 131,072 entries, both enough to be split over the most workers: their
    peaks differ by less than a sixteenth of the keys that were added, which what a heap keeps of pages is not."""
    layout = (VideoLayout.causal(1) if rows == 1 else VideoLayout.vst(ratio=[(80, 8)])).to("cpu")
    width, vst = 64, slice(8, None, 9)
    inv_freq = 1e6 ** (-torch.arange(0, width, 2) / width)
    q, k, v = (torch.randn(1, rows, heads, width).to(dtype) for heads in (14, 2, 2))

    def peak(entries: int) -> int:
        memory = [torch.randn(1, 2, entries + 16, width).to(dtype) for _ in range(2)]
        cos, sin = rotary_tables(inv_freq, torch.arange(entries + rows))
        length = torch.tensor([entries], dtype=torch.int32)

        def step() -> Tensor:
            turned = vst_rotate(q, k, v, cos[None, entries:], sin[None, entries:], layout)
            out = vst_attention(*turned, *memory, length, layout)
            if rows > 1:
                vst_append_(*memory, length, k[:, vst], v[:, vst], cos, sin)
            return out

        step()
        peaks = [peak_memory(step, q.device).extra for _ in range(3)]
        return min(extra or 0 for extra in peaks)

    added = 2 * (131_072 - 8192) * width * dtype.itemsize
    assert peak(131_072) - peak(8192) < added // 16
