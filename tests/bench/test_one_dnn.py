"""Peers' products and the matrix roof where the CPU does not multiply bfloat16."""

import pytest
import torch

from longreel.bench import RoofMeter, one_dnn
from longreel.measure.clock import HostClock

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_with_and_without_the_instruction(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, native: bool
) -> None:
    if native and dtype is torch.bfloat16 and not one_dnn.multiplies(dtype):
        pytest.skip("this CPU does not multiply bfloat16")
    monkeypatch.setattr(one_dnn, "multiplies", lambda given: native or given is not torch.bfloat16)
    x, weight = torch.randn(3, 5, 64).to(dtype), torch.randn(7, 64).to(dtype)
    out = one_dnn.linear(x, weight)
    assert out.dtype is dtype
    assert out.shape == (3, 5, 7)
    torch.testing.assert_close(out.double(), x.double() @ weight.double().mT, atol=0.05, rtol=1e-2)


def test_a_roof_is_measured_in_what_the_cpu_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_dnn, "multiplies", lambda dtype: dtype is not torch.bfloat16)
    meter = RoofMeter(CPU, torch.bfloat16, size=2**16, side=16)
    meter.sample(HostClock())
    assert meter.roof().matrix_by.startswith("float32")
