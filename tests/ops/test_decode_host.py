"""What a step of decoding costs the host is kept by what costs: calls of ours, tensors asked and made. `benchmarks/decode_host.py
--triton` gives the microseconds of the same calls, which no test can hold."""

import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

pytestmark = pytest.mark.fast
ROOT = Path(__file__).parents[2]
OURS = (str(ROOT / "python/longreel"), str(ROOT / "triton_kernels"))
MAKES = ("new_empty", "new_zeros", "contiguous", "transpose", "empty", "zeros", "to", "view", "copy_", "clone")
# Functions of ours that are called (but what stands for the card), methods of tensors, those of them that make tensors; launches.
MOST = {
    "vst_rotate": (32, 29, 6, 1),
    "vst_append_": (33, 27, 5, 1),
    "vst_attention": (56, 35, 10, 2),
    "block_sparse_attention": (47, 34, 11, 2),
}


def counted(call: Callable[[], Any]) -> Counter[str]:
    """Calls while `call` runs: not of comprehensions, which some versions of Python call and others do not."""
    found: Counter[str] = Counter()

    def profile(frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call":
            ours = code.co_filename.startswith(OURS) and not code.co_filename.endswith("aot.py")
            found["ours"] += ours and not code.co_name.endswith("comp>") and code.co_name != "<genexpr>"
        elif event == "c_call" and isinstance(getattr(argument, "__self__", None), torch.Tensor):
            found["tensor"] += 1
            found["makes"] += argument.__name__ in MAKES

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def test_a_step_of_decoding_asks_no_more_of_the_host() -> None:
    bench = runpy.run_path(str(ROOT / "benchmarks/decode_host.py"))
    calls, _ = bench["triton_calls"]()
    assert calls.keys() == MOST.keys()
    with bench["as_on_a_card"](calls) as launches:
        for name, call in calls.items():
            call()
            before = len(launches)
            found = counted(call)
            got = (found["ours"], found["tensor"], found["makes"], len(launches) - before)
            assert all(have <= most for have, most in zip(got, MOST[name], strict=True)), (
                f"{name}: {got}, most {MOST[name]}"
            )
