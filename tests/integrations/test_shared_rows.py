"""Context parallel: rows of one sequence in any order over the keys of all, and what is refused there."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from longreel import VideoLayout, use_layout
from longreel.integrations.shared import check_positions
from longreel.layout import positions
from longreel.layout.shared import SharedRows
from longreel.testing.host import READS

SIZE = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
LAYOUT = VideoLayout.voco(frames=3, prefix=2, vision=5, separator=1, voco=2, text=5)
ROWS = torch.cat([torch.arange(20, LAYOUT.length), torch.arange(7), torch.arange(7, 20).flip(0)])


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process: its rows stand in any order."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def decoder(kind: Any = LlamaForCausalLM, config: Any = LlamaConfig, **more: Any) -> Any:
    torch.manual_seed(0)
    return kind._from_config(config(**SIZE | more), attn_implementation="longreel")


def ids_of(samples: int, rows: int = LAYOUT.length) -> torch.Tensor:
    return torch.randint(1, 50, (samples, rows), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", [LAYOUT, None], ids=["voco", "causal"])
def test_rows_in_any_order_are_those_of_the_whole(layout: VideoLayout | None, alone: None) -> None:
    model, ids = decoder(), ids_of(2)
    places = torch.arange(LAYOUT.length)[None] if layout is None else torch.as_tensor(positions(layout)).view(1, -1)
    factor = torch.randn(2, LAYOUT.length, 50, generator=torch.Generator().manual_seed(2))
    found = []
    for rows in (None, ROWS):
        order = torch.arange(LAYOUT.length) if rows is None else rows
        model.zero_grad()
        with use_layout(layout, rows=rows):
            logits = model(input_ids=ids[:, order], position_ids=places[:, order]).logits
        (logits * factor[:, order]).sum().backward()
        found.append((logits[:, order.argsort()], [p.grad.clone() for p in model.parameters()]))
    (whole, gradients), (shared, theirs) = found
    torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-5)
    for gradient, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-5)


def test_torchs_own_context_parallel_is_refused_without_rows(alone: None) -> None:
    model, ids = decoder(), ids_of(1, 16)
    mesh = init_device_mesh("cpu", (1,))
    places, rows = torch.arange(16)[None], torch.arange(16)
    whole = model(input_ids=ids, position_ids=places).logits
    share = [ids.clone(), places, rows]
    with context_parallel(mesh, buffers=share, buffer_seq_dims=[1, 1, 0]):
        with pytest.raises(ValueError, match=r"must be told which rows a process has: longreel.use_layout"):
            model(input_ids=share[0], position_ids=places)
        with use_layout(None, rows=rows, group=mesh.get_group()):
            shared = model(input_ids=share[0], position_ids=places).logits
        order = rows.argsort()
    torch.testing.assert_close(shared[:, order], whole, rtol=1e-4, atol=1e-5)
    model(input_ids=ids)


def test_what_is_refused(alone: None) -> None:
    ids, rows = ids_of(1), ROWS
    places = torch.as_tensor(positions(LAYOUT)).view(1, -1)
    model = decoder()
    given = {"input_ids": ids[:, rows], "position_ids": places[:, rows]}
    padded = torch.ones(1, LAYOUT.length, dtype=torch.int64)
    padded[0, :3] = 0
    windowed = decoder(MistralForCausalLM, MistralConfig, sliding_window=4)

    def refused(said: str, model: Any = model, layout: VideoLayout | None = LAYOUT, **inputs: Any) -> None:
        with use_layout(layout, rows=rows), pytest.raises(ValueError, match=said):
            model(**given | inputs)

    refused("of 9 rows, this process's rows= are", input_ids=ids[:, :9], position_ids=places[:, :9])
    refused("an attention_mask that pads cannot be combined", attention_mask=padded)
    refused("a cache that holds keys cannot", past_key_values=model(input_ids=ids[:, :4]).past_key_values)
    refused("the model's own window, chunks or blocks cannot", windowed, None, position_ids=rows[None])
    refused("the layout is of 5 rows; allowed: one of all", layout=VideoLayout.causal(5))
    refused("position_ids are not this process's rows=", layout=None)
    refused("count this process's rows from 0", position_ids=torch.arange(LAYOUT.length)[None])


def test_positions_from_0_are_taken_where_they_are_the_rows_own() -> None:
    """Rows that begin with the first and leave some out are not counted from 0; a document behind another is."""
    causal, packed = VideoLayout.causal(12), VideoLayout.packed([VideoLayout.causal(6), VideoLayout.causal(6)])
    first, last, ends = torch.arange(6), torch.arange(6, 12), torch.tensor([0, 1, 2, 9, 10, 11])
    for layout, rows in ((causal, first), (packed, first), (packed, last), (packed, ends), (None, first)):
        check_positions(first[None], rows, layout)
    for layout, rows in ((causal, last), (causal, ends), (packed, torch.arange(3, 9))):
        with pytest.raises(ValueError, match="count this process's rows from 0"):
            check_positions(first[None], rows, layout)


def test_positions_are_read_once_a_pass(alone: None) -> None:
    """Of all layers the first alone lets the host wait for the device."""
    reads = []
    for layers in (1, 3):
        model = decoder(num_hidden_layers=layers)
        with use_layout(None, rows=ROWS), torch.no_grad(), Reads() as mode:
            for _ in range(2):
                model(input_ids=ids_of(1)[:, ROWS], position_ids=ROWS[None])
        reads.append(mode.count)
    assert reads[0] == reads[1] > 0


class Reads(TorchDispatchMode):
    """Counts operations whose numbers the host reads."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(read in func.name() for read in READS)
        return func(*args, **(kwargs or {}))


def test_rows_are_each_row_of_a_sequence_once(alone: None) -> None:
    assert SharedRows(torch.tensor([3, 4, 0, 1, 2])).runs == [(3, 5), (0, 3)]
    for rows, said in (
        (torch.tensor([0, 2]), "not each of 0 .. 1 once"),
        (torch.tensor([0, 0, 1]), "not each of 0 .. 2 once"),
        (torch.tensor([0.0]), "torch.float32"),
        (torch.empty(0, dtype=torch.int64), "at least one"),
        ([0, 1], "rows is list"),
    ):
        with pytest.raises(ValueError, match=said), use_layout(None, rows=rows):
            pass


def test_without_processes_it_is_said() -> None:
    with (
        pytest.raises(ValueError, match=r"torch\.distributed is not initialized"),
        use_layout(None, rows=torch.arange(3)),
    ):
        pass
