"""FSDP by torch's own means: a decoder of transformers with longreel's attention, its weights sharded over all processes.

torchrun --nproc-per-node 2 examples/sharded_training.py [SHARDS]

Each process trains on its share of the feature files in SHARDS (`longreel extract DIR --out SHARDS`); without it, on drawn ones.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler
from transformers import LlamaConfig, LlamaForCausalLM

import longreel
from longreel.data import FeatureShards
from longreel.layout import VideoLayout

FRAMES, TEXT, WIDTH, VOCO_ID = 4, 6, 32, 99


class SmallVlm(nn.Module):
    """Patches through a projector, a VoCo token behind each frame's, and text."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projector = nn.Linear(channels, WIDTH)
        config = LlamaConfig(
            vocab_size=100, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
        )
        self.decoder = LlamaForCausalLM._from_config(config, attn_implementation="longreel")

    def forward(self, features, ids):
        """features [1, F, N, C], ids [1, TEXT]; the loss of the text."""
        embed = self.decoder.get_input_embeddings()
        voco = embed(ids.new_full((1, FRAMES, 1), VOCO_ID))
        frames = torch.cat([self.projector(features), voco], dim=2).flatten(1, 2)
        labels = torch.cat([ids.new_full(frames.shape[:2], -100), ids], dim=1)
        return self.decoder(inputs_embeds=torch.cat([frames, embed(ids)], dim=1), labels=labels).loss


def drawn():
    """Features as of four clips."""
    draw = torch.Generator().manual_seed(0)
    return [{"features": torch.randn(FRAMES, 4, 24, generator=draw)} for _ in range(4)]


def layout_of(patches: int) -> VideoLayout:
    """A frame's patches attend to themselves, its VoCo token attends to them, and the text attends to the VoCo tokens alone."""
    return VideoLayout.voco(frames=FRAMES, vision=patches, separator=0, voco=1, text=TEXT)


def text(device):
    return torch.arange(3, 3 + TEXT, device=device)[None]


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())

    clips = FeatureShards(sys.argv[1], frames=FRAMES) if len(sys.argv) > 1 else drawn()
    _, patches, channels = clips[0]["features"].shape

    torch.manual_seed(0)
    model = SmallVlm(channels).to(device)
    for layer in model.decoder.model.layers:
        fully_shard(layer)
    fully_shard(model)

    layout = layout_of(patches).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(clips, sampler=DistributedSampler(clips, shuffle=False))
    ids = text(device)
    for step, clip in enumerate(loader):
        with longreel.use_layout(layout):
            loss = model(clip["features"].to(device, torch.float32), ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        if dist.get_rank() == 0:
            print(f"step {step}: loss {mean.item() / dist.get_world_size():.6f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
