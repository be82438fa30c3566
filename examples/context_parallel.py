"""Context parallel: one sequence shared by all processes, FSDP over the same ones, a decoder of transformers between them.

torchrun --nproc-per-node 2 examples/context_parallel.py

Every process computes its own rows; each layer of longreel's attention gathers the keys and values of all.
"""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

import longreel
from longreel.layout import VideoLayout, positions

FRAMES, PATCHES, TEXT = 4, 5, 7


def decoder() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="longreel")


def sample():
    """The layout of the whole sequence, and its ids and positions [1, S]; S = 4 x (5 + 1) + 7 = 31: no multiple of anything."""
    layout = VideoLayout.voco(frames=FRAMES, vision=PATCHES, separator=0, voco=1, text=TEXT)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 90, (1, layout.length), generator=draw)
    return layout, ids, torch.as_tensor(positions(layout)).reshape(1, -1)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
    rank, count = dist.get_rank(), dist.get_world_size()

    model = decoder().to(device)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    layout, ids, places = sample()
    # The label of a row is the next row's token, which may be another process's.
    labels = torch.cat([ids[:, 1:], torch.full((1, 1), -100)], dim=1)
    # A piece of the beginning and one of the end, so that all have as much to do under a causal mask.
    pieces = torch.arange(layout.length).tensor_split(2 * count)
    rows = torch.cat([pieces[rank], pieces[-1 - rank]])
    ids, places, mine = (whole[:, rows].to(device) for whole in (ids, places, labels))

    for step in range(2):
        with longreel.use_layout(layout, rows=rows):
            logits = model(input_ids=ids, position_ids=places).logits
            # Of all rows that have a label; FSDP takes the mean over processes, so each gives its part times their number.
            loss = cross_entropy(logits[0], mine[0], reduction="sum") / (labels != -100).sum()
            (loss * count).backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        dist.all_reduce(total)
        if rank == 0:
            print(f"step {step}: loss {total.item():.6f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
