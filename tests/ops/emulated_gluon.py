"""Runs block_sparse_attention's kernel in Gluon as plain Python on torch tensors: its own source, with stand-ins for Gluon."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from gluon_parts import Barrier, Machine, Pointer, Shared, load, store
from torch import Tensor

ROOM = Path(__file__).parents[2] / "triton_kernels"
PACKAGE = "longreel.triton_kernels"


def aligned(at: Pointer, multiples: list[int]) -> Pointer:
    """What the compiler is told of pointers is true, by 16-byte pieces of rows."""
    assert (at.offset[:, ::8] * at.tensor.element_size() % multiples[1] == 0).all()
    return at


def multiply(a: Any, b: Shared, acc: Tensor, use_acc: bool = True, is_async: bool = False) -> Any:
    assert is_async

    def product() -> Tensor:
        left = a.data if isinstance(a, Shared) else a
        result = left.float() @ b.data.float()
        return acc + result if use_acc else result

    return product


def _jit(function: Any = None, **_: Any) -> Any:
    return Kernel if function is None else Kernel(function)


class Kernel:
    """A function of the device; launched where it is given a grid."""

    seed = 0
    machine: Machine

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def launch(*given: Any, num_warps: int, enable_fp_fusion: bool, **constants: Any) -> None:
            for program in range(grid[0]):
                Kernel.machine = Machine(Kernel.seed + program)
                Kernel.machine.program = program
                self.function(*map(_pointers, given), **constants)

        return launch


def _pointers(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Pointer(value)
    if isinstance(value, tuple):
        return type(value)(*map(_pointers, value))
    return value


def _descriptor(tensor: Tensor, shape: list[int], strides: list[int], block: list[int], _layout: Any) -> Any:
    view = tensor.as_strided(shape, strides)
    return SimpleNamespace(view=view, shape=shape, block=block)


def _both(of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *values: of(*map(torch.as_tensor, values))


def _language() -> dict[str, Any]:
    class Layout:
        def __init__(self, *_: Any) -> None: ...

        get_default_for = staticmethod(lambda shape, dtype: None)

    def allocate(dtype: torch.dtype, shape: list[int], layout: Any) -> Shared:
        if dtype is torch.int64:
            return Shared([Barrier() for _ in range(shape[0])])
        return Shared(torch.full(shape, torch.nan, dtype=dtype))

    layouts = ("SliceLayout", "BlockedLayout", "NVMMADistributedLayout", "DotOperandLayout", "NVMMASharedLayout")
    dtypes = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "int32", "int64")}
    return {
        **dict.fromkeys(layouts, Layout),
        **dtypes,
        "constexpr": lambda value: value,
        "program_id": lambda axis: torch.tensor(Kernel.machine.program),
        "cdiv": lambda a, b: -(-a // b),
        "load": load,
        "store": store,
        "arange": lambda begin, end, layout=None: torch.arange(begin, end),
        "full": lambda shape, value, dtype, layout=None: torch.full(shape, value, dtype=dtype),
        "zeros": lambda shape, dtype, layout=None: torch.zeros(shape, dtype=dtype),
        "where": _both(torch.where),
        "maximum": _both(torch.maximum),
        "minimum": _both(torch.minimum),
        "exp2": torch.exp2,
        "log": torch.log,
        "max": lambda x, axis: x.amax(axis),
        "sum": lambda x, axis: x.sum(axis),
        "static_range": range,
        "convert_layout": lambda x, layout: x,
        "max_contiguous": lambda x, sizes: x,
        "multiple_of": aligned,
        "allocate_shared_memory": allocate,
        "warp_specialize": lambda *given: Kernel.machine.specialize(*given),
    }


def _module(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


def _init(barrier: Barrier, count: int) -> None:
    barrier.count = barrier.pending = count


@contextmanager
def emulated(seed: int = 0, edit: Callable[[str], str] = lambda source: source) -> Iterator[Any]:
    """The module `hopper` of block_sparse_attention, whose kernel runs here meanwhile; `edit` changes the kernel's source."""
    importlib.import_module(f"{PACKAGE}.block_sparse_attention")
    language, gluon, nvidia = _language(), "triton.experimental.gluon", "triton.experimental.gluon.language.nvidia"
    machine: Any = Kernel
    barriers = _module(
        "mbarrier",
        MBarrierLayout=lambda: None,
        init=_init,
        wait=lambda barrier, parity: machine.machine.wait(barrier, parity),
        expect=lambda barrier, bytes_: barrier.change(arrivals=1, expected=bytes_),
        arrive=lambda barrier, count: barrier.change(arrivals=count),
    )
    asynchronous = _module(
        "async_copy",
        async_load=lambda to, at, mask: machine.machine.copy(to, at, mask),
        mbarrier_arrive=lambda barrier, increment_count: machine.machine.arrive_after_copies(barrier, increment_count),
    )
    hopper = {
        "fence_async_shared": lambda: None,
        "mbarrier": barriers,
        "tma": _module("tma", async_load=lambda *given: machine.machine.copy_rows(*given)),
        "warpgroup_mma": multiply,
        "warpgroup_mma_wait": lambda left, deps: deps[0](),
    }
    fakes = {
        "triton": _module("triton", jit=_jit, cdiv=language["cdiv"], language=_module("tl", **language)),
        "triton.language": _module("triton.language", **language),
        "triton.experimental": _module("triton.experimental"),
        gluon: _module(gluon, jit=_jit, constexpr_function=lambda f: f, language=_module("gl", **language)),
        f"{gluon}.language": _module("gl", **language),
        f"{gluon}.nvidia.hopper": _module("hopper", TensorDescriptor=_descriptor),
        f"{nvidia}.ampere": _module("ampere", async_copy=asynchronous),
        f"{nvidia}.hopper": _module("hopper", **hopper),
    }
    # The functions of the device anew, each after those that it is made of.
    names = (
        "common.tiles",
        "common.online_softmax",
        *(f"block_sparse_attention.{n}" for n in ("ranges", "warp_specialised")),
    )
    Kernel.seed = seed
    with mock.patch.dict(sys.modules, fakes):
        for name in (*names, "block_sparse_attention.hopper"):
            path = (ROOM / name.replace(".", "/")).with_suffix(".py")
            made = _module(f"{PACKAGE}.{name}", __file__=str(path))
            sys.modules[made.__name__] = made
            source = path.read_text()
            if name.endswith("warp_specialised"):
                source = edit(source)
            exec(compile(source, path, "exec"), vars(made))
        yield made
