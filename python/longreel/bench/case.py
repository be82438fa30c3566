"""A benchmark case: one op at one shape, our backends beside its peers, a check against float64, and its measurement."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from longreel.backends import available
from longreel.bench.check import Verdict
from longreel.bench.harness import Contender, compare
from longreel.bench.report import Report
from longreel.bench.roof import RoofMeter
from longreel.measure.clock import Timed
from longreel.measure.machine import Record, last_level_cache
from longreel.ops.common.cost import Cost
from longreel.ops.registry import OPS
from longreel.testing.budget import PEER_BUDGETS

Tensors = dict[str, Tensor]

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
CPU = torch.device("cpu")
BACKWARD = ("none", "query", "all")
# Of the copies of inputs that calls take in turn: bytes, and how many.
_COPIED, _COPIES = 2 * 2**30, 1024


class Noted(Protocol):
    """What every peer has: what it is, in a few words."""

    @property
    def note(self) -> str: ...


@dataclass(frozen=True)
class Prepared:
    """A variant that is set up: `run` is the timed call, on inputs that `lay_out` has put as it takes them, outside the clock."""

    run: Callable[[Tensors], Tensors]
    lay_out: Callable[[Tensors], Tensors] = dict


@dataclass(frozen=True)
class BenchCase(ABC):
    """One op at one shape, dtype and device; `backward` says which gradients are computed too: none, query or all.

    A subclass says for its ops what the inputs are, what the peers are, and how a result is checked.
    """

    op: str
    shape: Any
    dtype: torch.dtype = torch.bfloat16
    device: torch.device = CPU
    backward: str = "none"

    # The shapes called "small", "quick" and "hour"; their fields are options of the command.
    SIZES: ClassVar[Mapping[str, Any]]
    # The same for the released systems that call the op, by name.
    SYSTEMS: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ValueError(f"op={self.op!r} is not one of {', '.join(OPS)}")
        if self.backward not in self.passes():
            raise ValueError(f"backward={self.backward!r} for {self.op}: allowed are {', '.join(self.passes())}")

    @classmethod
    @abstractmethod
    def passes(cls) -> tuple[str, ...]:
        """The values of `backward` that make sense for the op."""

    @property
    @abstractmethod
    def leaves(self) -> tuple[str, ...]:
        """The inputs whose gradients are computed."""

    @property
    @abstractmethod
    def peers(self) -> Mapping[str, Noted]:
        """Plain-PyTorch forms by name; the one called "strong" is the baseline."""

    @property
    @abstractmethod
    def work(self) -> Cost:
        """FLOPs and bytes that the case cannot do without."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """What the inputs and outputs of every variant take at least."""

    @property
    @abstractmethod
    def tensors(self) -> Tensors:
        """Inputs, and gradients of outputs, by name; kept until `release`."""

    @abstractmethod
    def prepare(self, name: str) -> Prepared:
        """Set-up of a variant outside the clock; its call gives outputs, and gradients as `grad_<input>`, by name."""

    @property
    def dense(self) -> tuple[Timed, float] | None:
        """Of an op that leaves pairs out: the same arithmetic where every pair counts, in plain PyTorch, and its FLOPs. Its rate
        is the bound: nothing but the visible pairs, as fast as dense ones."""
        return None

    @cached_property
    def input_sets(self) -> list[Tensors]:
        """The inputs, and copies: a call takes the next, and what it reads has left the last-level cache since the set's last
        turn. On a GPU one; the clock there empties the cache."""
        cache = last_level_cache() if self.device.type == "cpu" else None
        if not cache:
            return [self.tensors]
        held = sum(tensor.nbytes for tensor in self.tensors.values())
        wanted = math.ceil(2 * cache / max(1, self.work.bytes))
        count = max(1, min(wanted, _COPIED // max(1, held), _COPIES))
        copies = ({name: tensor.clone() for name, tensor in self.tensors.items()} for _ in range(count - 1))
        return [self.tensors, *copies]

    @property
    def rotation(self) -> Record:
        """How many sets of inputs take turns, the bytes until one comes again, and the cache that they have to leave."""
        sets = len(self.input_sets)
        cache = last_level_cache() if self.device.type == "cpu" else None
        return {"input_sets": sets, "bytes_a_turn": sets * self.work.bytes, "last_level_cache": cache}

    def make(self, name: str) -> Callable[[], Tensors]:
        """A variant's call, on the next set of inputs every time."""
        prepared = self.prepare(name)
        turns = itertools.cycle([prepared.lay_out(tensors) for tensors in self.input_sets])
        return lambda: prepared.run(next(turns))

    @abstractmethod
    def needs(self, name: str) -> int:
        """Bytes that a call of the variant takes beyond its inputs, estimated; 0 is not checked."""

    def absent(self, peer: str) -> str | None:
        """Why this machine does not run the peer, in a few words."""
        return None

    @abstractmethod
    def check(self, result: Tensors) -> Verdict:
        """`result` against the reference in float64, with plain PyTorch in the dtype as the yardstick."""

    def budgets(self, backend: str) -> float:
        """How many error budgets a backend of ours may use up."""
        return 1.0

    def note(self, backend: str) -> str:
        """What a backend of ours is, in a few words."""
        return "the specification" if backend == "reference" else f"longreel.{self.op}"

    @property
    def facts(self) -> Record:
        """What identifies the case in a record."""
        passed = "forward" if self.backward == "none" else f"forward + backward ({self.backward})"
        return {
            "op": self.op,
            "dtype": str(self.dtype).removeprefix("torch."),
            "pass": passed,
            "shape": str(self.shape),
            **asdict(self.shape),
        }

    def release(self) -> None:
        """Drop what stays between variants: inputs and truth."""
        for name in set(self.__dict__) - set(self.__dataclass_fields__):
            del self.__dict__[name]

    @property
    def backends(self) -> list[str]:
        """Our backends that can run the case, best first."""
        return available(self.op, self.device.type, self.dtype)

    @property
    def kernels(self) -> list[str]:
        """Our backends but the reference."""
        return [name for name in self.backends if name != "reference"]

    @property
    def names(self) -> list[str]:
        """Every variant: our kernels, then the peers, then the reference."""
        return [*self.kernels, *self.peers, "reference"]

    @property
    def quick_names(self) -> list[str]:
        """Our kernels, and the peers that torch.compile does not make: making them takes longer than measuring everything."""
        return [*self.kernels, *(name for name, peer in self.peers.items() if not getattr(peer, "compiled", False))]

    def variants(self, names: Sequence[str] | None = None) -> list[Contender]:
        """The variants called `names`, default all but the reference."""
        chosen = [name for name in self.names if name != "reference"] if names is None else list(names)
        return [self.variant(name) for name in chosen]

    def variant(self, name: str) -> Contender:
        if name in self.peers:
            note, absent = self.peers[name].note, self.absent(name)
            return Contender(name, partial(self.make, name), note, self.needs(name), PEER_BUDGETS, absent)
        if name in self.backends:
            return Contender(name, partial(self.make, name), self.note(name), self.needs(name), self.budgets(name))
        raise ValueError(f"{self.op} has no variant {name!r} here; there are {', '.join(self.names)}")


def measure(
    case: BenchCase,
    *,
    names: Sequence[str] | None = None,
    repeats: int = 10,
    min_time: float = 0.01,
    budget: float | None = None,
    roof: RoofMeter | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """`compare` the variants of one case (default: all but the reference) over the peer called "strong"."""
    variants = case.variants(names)
    chosen = [variant.name for variant in variants]
    return compare(
        variants,
        work=case.work,
        check=case.check,
        device=case.device,
        dtype=case.dtype,
        baseline="strong" if "strong" in chosen else chosen[0],
        facts=case.facts | case.rotation,
        dense=case.dense,
        repeats=repeats,
        min_time=min_time,
        budget=budget,
        roof=roof,
        progress=progress,
    )
