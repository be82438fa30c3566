"""The ops on Video-XL's memory beside their cases, in Triton's interpreter (see interpreted_cases.py): strides, 64-bit
addresses, and lengths that no memory has."""

import pytest
import torch
from longreel.triton_kernels.vst_append_ import vst_append_
from longreel.triton_kernels.vst_attention import vst_attention
from torch import Tensor

from longreel.layout import VideoLayout
from longreel.ops.registry import OPS
from longreel.testing import far, poison
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case, Inputs, shorter
from longreel.testing.cases.memory import ints, memory_case
from longreel.testing.determinism import same_bits
from longreel.testing.runner import Variant, layouts, low_level, prepare, run, yardstick

CASES = {op: shorter(corners(op).cases()[0]) for op in ("vst_rotate", "vst_append_")} | {
    "vst_attention": memory_case("rows", lambda f: VideoLayout.causal(2 * f), entries=(40, 21), heads=(2, 2), frames=1)
}


def check(op: str, inputs: Inputs) -> None:
    wanted = OPS[op].differentiable
    with poison():
        got = run(op, low_level(Variant(op, "triton", "cpu")), inputs, wanted)
    yardstick(op, inputs, torch.float32, wanted).check(got.everything)


@pytest.mark.parametrize("kind", ["gaps", "stepped", "swapped"])
@pytest.mark.parametrize(("op", "case"), CASES.items(), ids=CASES)
def test_any_strides(op: str, case: Case, kind: str) -> None:
    inputs = prepare(case.inputs(), torch.float32)
    moved = {name: layouts(value)[kind] for name, value in inputs.items() if isinstance(value, Tensor)}
    check(op, inputs | moved)


@pytest.mark.parametrize(("op", "case"), CASES.items(), ids=CASES)
def test_addresses_beyond_32_bits(op: str, case: Case) -> None:
    """Every tensor of four dimensions, the last entry of one of them beyond 2^31 elements."""
    inputs = prepare(case.inputs(), torch.float32)
    heads = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.dim() == 4]
    for dim in range(3):
        check(op, inputs | {name: far(inputs[name], dim) for name in heads})


def test_what_the_memory_has_no_slot_for_is_not_written() -> None:
    memory = torch.zeros(4, 1, 10, 8)
    mem_k, mem_v = memory[1:3], memory.clone()[1:3]
    k, table = torch.ones(2, 4, 1, 8), torch.ones(10, 4)
    vst_append_(mem_k, mem_v, ints(8, -2), k, k, table, torch.zeros(10, 4))
    for written in (mem_k, mem_v):
        assert written[0, 0, :, 0].tolist() == [0] * 8 + [1, 1]
        assert written[1, 0, :, 0].tolist() == [1, 1] + [0] * 8
    assert not memory[0].any()
    assert not memory[3].any()


@pytest.mark.parametrize("rows", [3, 20])
def test_nothing_beyond_the_memory_or_the_keys_is_read(rows: int) -> None:
    """A length beyond what there is counts as all of it, by the kernel for few rows and by the one for many."""
    inputs = prepare(
        memory_case("long", lambda _: VideoLayout.causal(rows), entries=(50,), before=(30,), heads=(2, 1)).inputs(),
        torch.float32,
    )
    args = OPS["vst_attention"].lower(**inputs)
    mem_k, mem_v = (torch.nan_to_num(t) for t in (args.mem_k, args.mem_v))
    capacity, keys = mem_k.shape[2], args.k.shape[1]
    held = torch.full((2, 2, *mem_k.shape[1:]), torch.nan)
    held[0, 0], held[0, 1] = mem_k[0], mem_v[0]

    def got(length: int, before: int) -> tuple[Tensor, Tensor]:
        own = args._replace(mem_k=held[0, :1], mem_v=held[0, 1:], mem_len=ints(length), k_before=ints(before))
        return vst_attention(*own)

    expected = got(capacity, keys - rows)
    for beyond in (got(2**31 - 1 - keys, keys - rows), got(capacity + 7, keys - rows)):
        assert all(same_bits(a, b) for a, b in zip(beyond, expected, strict=True))
    last = got(capacity, keys)[0]
    assert last.isfinite().all()
