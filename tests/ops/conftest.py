"""Triton's interpreter, as these tests need it, and the emulator of CUDA kernels."""

import ctypes
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def emulator() -> Iterator[ctypes.CDLL]:
    import emulated_kernels

    loaded = emulated_kernels.load()
    yield loaded
    loaded.emulator_set_order(0)


if os.environ.get("TRITON_INTERPRET") == "1":
    from triton.runtime import interpreter

    class OneOrder(interpreter.InterpreterBuilder):
        """Products of float32 by way of float64.

        A card adds up a product and its transpose in one order; numpy, on some CPUs, does not, and a backward that makes scores
        anew, transposed, then meets other scores than its forward.
        """

        def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):  # type: ignore[no-untyped-def]
            if a.data.dtype != np.float32 or d.data.dtype != np.float32:
                return super().create_dot(a, b, d, input_precision, max_num_imprecise_acc)
            with np.errstate(all="ignore"):
                product = np.matmul(a.data, b.data, dtype=np.float64).astype(np.float32)
            return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    interpreter.interpreter_builder.__class__ = OneOrder
    # Without `debug` nobody is told what that check finds.
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)

    patch_lang = interpreter._patch_lang
    patched = set[str]()

    def patch_once(function: Any) -> Any:
        """Triton patches its language at every call of a device function, which takes longer than the call: once a module."""
        if function.__module__ not in patched:
            patched.add(function.__module__)
            patch_lang(function)
        return interpreter._LangPatchScope()  # restores nothing

    interpreter._patch_lang = patch_once
