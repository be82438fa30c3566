"""vst_append_ writes into a memory: under transforms of torch, and where there is no place to write; vst_project's arguments."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from longreel import rotary_tables, vst_append_, vst_project
from longreel.reference.vst_append_ import vst_append_ as reference

pytestmark = pytest.mark.fast
COS, SIN = rotary_tables(torch.tensor([1.0, 0.1]), 9)


def rows(*batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(*batch, 1, 3, 2, 4, generator=generator) for _ in range(2))
    return k, v


def memory(*batch: int) -> tuple[Tensor, Tensor]:
    mem_k, mem_v = (torch.zeros(*batch, 1, 2, 7, 4) for _ in range(2))
    return mem_k, mem_v


def appended(k: Tensor, v: Tensor, mem_k: Tensor, mem_v: Tensor, append: Any = vst_append_) -> Tensor:
    append(mem_k, mem_v, torch.tensor([2], dtype=torch.int32), k, v, COS, SIN)
    return mem_k * mem_v.cos()


def test_forward_mode() -> None:
    k, v = rows()
    moves = torch.randn_like(k), torch.randn_like(v)
    at = memory()
    expected = torch.func.jvp(lambda *given: appended(*given, *memory(), reference), (k, v), moves)[1]
    assert expected.abs().max() > 0.1
    got = torch.func.jvp(lambda *given: appended(*given, *memory()), (k, v), moves)[1]
    torch.testing.assert_close(got, expected)
    with forward_ad.dual_level():
        given = [forward_ad.make_dual(t, move) for t, move in zip((k, v), moves, strict=True)]
        out = forward_ad.unpack_dual(appended(*given, *at))
        torch.testing.assert_close(out.tangent, expected)
        torch.testing.assert_close(out.primal, appended(k, v, *memory()))


def test_vmap() -> None:
    given, at = rows(2), memory(2)
    expected = torch.stack([appended(*pair, *memory()) for pair in zip(*given, strict=True)])
    torch.testing.assert_close(torch.func.vmap(appended)(*given, *at), expected)


TRANSFORMS = {
    "jvp": lambda f, k, v: torch.func.jvp(f, (k, v), (k, v)),
    "jacfwd": lambda f, k, v: torch.func.jacfwd(f)(k, v),
    "vmap": lambda f, k, v: torch.func.vmap(f)(torch.stack([k, k]), torch.stack([v, v])),
    "functionalize": lambda f, k, v: torch.func.functionalize(f)(k, v),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_memory_from_outside_is_refused_in_a_line(name: str) -> None:
    at = memory()
    with pytest.raises(RuntimeError, match="vst_append_ changes mem_k, mem_v in place, which this transform") as said:
        TRANSFORMS[name](lambda k, v: appended(k, v, *at), *rows())
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("derived", [torch.func.grad, torch.func.jacrev])
def test_gradients_are_refused_in_a_line(derived: Any) -> None:
    with pytest.raises(RuntimeError, match=r"in place and has no gradient: use torch\.no_grad"):
        derived(lambda k, v: appended(k, v, *memory()).sum())(*rows())


def test_a_memory_without_a_place_for_every_entry() -> None:
    (k, v), (mem_k, mem_v) = rows(), memory()
    with pytest.raises(ValueError, match=r"mem_v \(1, 2, 7, 4\) has strides .* clone it first"):
        appended(k, v, mem_k, mem_v[:, :1].expand(-1, 2, -1, -1))
    with pytest.raises(ValueError, match="are one tensor"):
        appended(k, v, mem_k, mem_k)
    assert not mem_k.any()


WEIGHTS = torch.ones(64, 12)
GIVEN: dict[str, Any] = {
    "x": torch.ones(1, 5, 12), "n_raw": 3, "w_raw": WEIGHTS, "b_raw": None, "w_vst": WEIGHTS, "b_vst": None, "heads": 4,
    "kv_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"w_raw": WEIGHTS.to("meta")}, ValueError, "w_raw is on meta and x is on cpu"),
        ({"w_vst": WEIGHTS.double()}, TypeError, "w_vst is torch.float64 and x is torch.float32"),
        ({"w_raw": torch.nn.Linear(12, 64)}, TypeError, "w_raw is a Linear; allowed: a torch.Tensor"),
        ({"x": None}, TypeError, "x is a NoneType"),
        ({"x": GIVEN["x"].int(), "w_raw": WEIGHTS.int(), "w_vst": WEIGHTS.int()}, TypeError, "x is torch.int32"),
        ({"b_raw": [1.0]}, TypeError, "b_raw is a list"),
        ({"b_raw": torch.ones(64, device="meta")}, ValueError, "b_raw is on meta"),
        ({"n_raw": 2.0}, TypeError, "n_raw is a whole number; given 2.0"),
        ({"heads": 4.0}, TypeError, "heads is a whole number; given 4.0"),
        ({"heads": 10, "kv_heads": -1}, ValueError, "kv_heads=-1 is below 0"),
    ],
)
def test_projections_refused(changed: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        vst_project(**GIVEN | changed)


def test_projections_of_meta_and_under_autocast() -> None:
    given = {name: t.to("meta") if isinstance(t, Tensor) else t for name, t in GIVEN.items()}
    assert [tuple(t.shape) for t in vst_project(**given)] == [(1, 5, 4, 8), (1, 5, 2, 8), (1, 5, 2, 8)]
    with torch.autocast("cpu", torch.bfloat16):
        assert {t.dtype for t in vst_project(**GIVEN | {"x": GIVEN["x"].bfloat16()})} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ((None, 3), TypeError, "inv_freq is a NoneType"),
        (([1.0], 3), TypeError, "inv_freq is a list"),
        ((torch.ones(4), -3), ValueError, "positions=-3 is below 0"),
        ((torch.ones(4), 2.5), TypeError, "positions is a float"),
        ((torch.ones(4), [1, 2]), TypeError, "positions is a list"),
    ],
)
def test_tables_refused(given: tuple[Any, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        rotary_tables(*given)
