"""Trains the needle's decoder on this machine, through longreel's own kernels.

    python benchmarks/needle/needle_train.py --minutes 60 [--resume] [--folder .cache/needle]

Short videos first; the next stage begins where the last 40 steps recalled 97 %. The last one leaves positions out between
chunks, as if there had been more video, and lets the learning rate fall to 0 over `--last` steps. A checkpoint a minute;
`--resume` goes on from it.
"""

import argparse
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from needle_model import fresh, save
from needle_pass import answers, plan_of
from needle_task import Needles, batch
from torch import Tensor, nn

from longreel.models.video_xl import VSTDecoder

ENOUGH, STEPS_JUDGED = 0.97, 40
WARM_UP, CLIP = 100, 1.0


@dataclass(frozen=True)
class Stage:
    """size: videos of a step. ratios: one of which each step takes. spread: chunks that the positions are spread over, at most;
    0: as they are."""

    task: Needles
    size: int
    ratios: tuple[int, ...] = (8,)
    spread: int = 0


MIXED = (4, 8, 8, 16)
STAGES = (
    Stage(Needles(2, 24, 4), 64),
    Stage(Needles(2, 48, 8), 32),
    Stage(Needles(2, 96, 12), 16),
    Stage(Needles(2, 144, 16), 12),
    Stage(Needles(4, 144, 24), 6),
    Stage(Needles(8, 144, 32), 4, MIXED),
    Stage(Needles(16, 144, 32), 2, MIXED),
    Stage(Needles(16, 144, 32), 2, MIXED, spread=64),
)


def train_step(decoder: VSTDecoder, stage: Stage, seed: int) -> tuple[Tensor, Tensor]:
    """The loss of a step, and the share of its questions that are answered right: all keys are asked, in some order."""
    given, task, random = batch(stage.task, stage.size, seed), stage.task, torch.Generator().manual_seed(seed)
    order = torch.rand(given.keys.shape, generator=random).argsort(1)
    keys, values = given.keys.gather(1, order), given.values.gather(1, order)
    skipped, ratio = None, stage.ratios[seed % len(stage.ratios)]
    if stage.spread:
        most = torch.rand(stage.size, 1, generator=random) * (stage.spread - task.chunks) * (task.chunk // ratio)
        skipped = (torch.rand(stage.size, task.chunks + 1, generator=random) * most).long().sort(1).values
    plan = plan_of(task.chunks, task.chunk, ratio, task.pairs)
    raw = decoder.language.get_input_embeddings()(given.video)
    logits = answers(decoder, raw, keys, plan, skipped)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), values.flatten())
    return loss, (logits.argmax(-1) == values).float().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a small decoder with VST to recall pairs.")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so many (60)")
    parser.add_argument("--folder", type=Path, default=Path(".cache/needle"), help="of checkpoint and weights")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--last", type=int, default=3000, help="steps of the last stage (3000)")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate (2e-3)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = args.folder / "checkpoint.pt"
    if args.resume and not checkpoint.exists():
        parser.error(f"--resume: there is no {checkpoint}")
    decoder = fresh(args.seed).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    # In all, and of the last stage.
    steps, late, at, minutes = 0, 0, 0, 0.0
    if args.resume:
        held = torch.load(checkpoint)
        decoder.load_state_dict(held["weights"])
        optimizer.load_state_dict(held["optimizer"])
        steps, late, at, minutes = (held[name] for name in ("steps", "late", "stage", "minutes"))

    def keep() -> None:
        about = {"seed": args.seed, "steps": steps, "late": late, "stage": at, "minutes": minutes + spent()}
        part = checkpoint.with_suffix(".part")
        torch.save(about | {"weights": decoder.state_dict(), "optimizer": optimizer.state_dict()}, part)
        part.replace(checkpoint)
        save(decoder, args.folder / "weights.safetensors", {name: str(value) for name, value in about.items()})

    start = saved = time.monotonic()
    recalled = deque[float](maxlen=STEPS_JUDGED)

    def spent() -> float:
        return (time.monotonic() - start) / 60

    while spent() < args.minutes and late < args.last:
        stage = STAGES[at]
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1.0, (steps + 1) / WARM_UP, 1 - late / args.last)
        loss, right = train_step(decoder, stage, args.seed * 10**6 + steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), CLIP)
        optimizer.step()
        steps, late = steps + 1, late + (at == len(STAGES) - 1)
        recalled.append(right.item())
        mean = sum(recalled) / len(recalled)
        if steps % 20 == 0:
            print(
                f"{spent():6.2f} min, step {steps}, stage {at}: loss {loss.item():.3f}, recall {mean:.1%}", flush=True
            )
        if len(recalled) == STEPS_JUDGED and mean >= ENOUGH and at < len(STAGES) - 1:
            at += 1
            recalled.clear()
        if time.monotonic() - saved > 60:
            keep()
            saved = time.monotonic()
    keep()


if __name__ == "__main__":
    main()
