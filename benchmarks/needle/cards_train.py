"""Trains `--preset needle` on this machine: a tower that reads cards, then a decoder with VST that finds them again.

    python benchmarks/needle/cards_train.py --tower 300 --steps 600 [--folder .cache/cards]

First tower and projector: every visual token of a card is to point at its colour's and its digit's embedding, one of another
frame at NONE's. Then the decoder, on the tokens that they give, windows of 10 frames: one, then more, at last with positions left
out between them. Written as a released checkpoint, with a vocabulary of the colours and digits.
"""

import argparse
import json
import time
from collections import deque
from pathlib import Path

import torch
from needle_model import copies
from needle_pass import answers, plan_of
from safetensors.torch import save_file
from torch import Tensor, nn

from longreel.data import frames
from longreel.data.cards import COLOURS, DIGITS, DigitCard
from longreel.data.clips import sample_clip
from longreel.models.video_xl import VideoXL, to_released
from longreel.models.video_xl.checkpoint import sized
from longreel.models.video_xl.presets import NEEDLE

END, COLOUR, DIGIT = 0, 1, 1 + len(COLOURS)
NONE = DIGIT + DIGITS
CONFIG = {
    "model_type": "llava_qwen", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 256, "vocab_size": NONE + 1, "max_position_embeddings": 131072, "rope_theta": 1e9, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True, "use_sliding_window": False, "initializer_range": 128**-0.5, "mm_hidden_size": 64,
    "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": "spatial_pool", "mm_spatial_pool_stride": 2,
    "mm_spatial_pool_mode": "average", "beacon_window": 1440, "beacon_stride": 1440,
    "beacon_attn": "full-coverage", "beacon_param": ["q", "k", "v"], "beacon_pos": "interleave",
    "eos_token_id": END, "bos_token_id": None, "pad_token_id": None,
}  # fmt: skip
# Frames of a window, and positions that one takes at ratio 8.
FRAMES, RATIO = 10, 8
GRID = 12
TOKENS = GRID * GRID


def vocabulary() -> dict:
    """tokenizers' file: of a text it hears the colours and digits, and nothing else."""
    words = ["<end>", *COLOURS, *map(str, range(DIGITS)), "<none>"]
    heard = rf"\b({'|'.join(COLOURS)}|[0-9])\b|<end>"
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None, "decoder": None,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": heard}, "behavior": "Removed", "invert": True},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<none>"},
    }  # fmt: skip


class Footage:
    """Pictures of every card, and frames of the clip without any: uint8 [F, side, side, 3], with colour [F] and digit [F] as ids,
    NONE without a card."""

    def __init__(self, side: int) -> None:
        plain = torch.cat([chunk.pixels for chunk in frames(sample_clip(), "fps:8", size=side)])
        cards = [DigitCard(colour, digit, 0) for colour in COLOURS for digit in range(DIGITS)]
        # As in a video: of 272 pixels, not quite as it was drawn.
        shown = torch.stack([torch.from_numpy(card.picture(272, 272).copy()) for card in cards]).permute(0, 3, 1, 2)
        shown = nn.functional.interpolate(shown.float(), (side, side), mode="bicubic").permute(0, 2, 3, 1)
        self.pixels = torch.cat([shown.clamp(0, 255).byte(), plain])
        place = torch.arange(len(self.pixels))
        card = place < len(cards)
        self.colour = torch.where(card, COLOUR + place // DIGITS, NONE)
        self.digit = torch.where(card, DIGIT + place % DIGITS, NONE)

    def mosaics(self, pieced: int, whole: int, random: torch.Generator) -> Tensor:
        """Of every token of that many pictures the one that it is cut from [pieced + whole, GRID, GRID]: half of them cards."""
        cards = int((self.colour != NONE).sum())
        shape = (pieced + whole, GRID, GRID)
        card = torch.randint(cards, shape, generator=random)
        plain = torch.randint(cards, len(self.pixels), shape, generator=random)
        cut = torch.where(torch.rand(shape, generator=random) < 0.5, card, plain)
        cut[pieced:] = cut[pieced:, :1, :1]
        return cut

    def noisy(self, cut: Tensor, random: torch.Generator) -> Tensor:
        """Pictures cut together, [n, GRID, GRID] of which each token is, with noise as a video's: uint8 [n, side, side, 3]."""
        cell = self.pixels.shape[1] // GRID
        cells = self.pixels.view(-1, GRID, cell, GRID, cell, 3)
        row, column = torch.arange(GRID)[:, None], torch.arange(GRID)
        # [n, GRID, GRID, cell, cell, 3]
        taken = cells[cut, row, :, column]
        pixels = taken.permute(0, 1, 3, 2, 4, 5).reshape(len(cut), *self.pixels.shape[1:]).float()
        return (pixels + 8 * torch.randn(pixels.shape, generator=random)).clamp(0, 255).byte()


def train_tower(model: VideoXL, footage: Footage, steps: int, rate: float = 2e-3) -> None:
    """Only tower and projector change."""
    model.tower.requires_grad_(True)
    table = model.language.get_input_embeddings().weight.detach()
    table = nn.functional.normalize(table, dim=1)
    optimizer = torch.optim.AdamW([*model.tower.parameters(), *model.projector.parameters()], lr=rate)
    random = torch.Generator().manual_seed(0)
    start = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 30, (steps - step) / (0.3 * steps))
        cut = footage.mosaics(4, 2, random)
        # [6, TOKENS, E]
        out = model.project(model._patches(footage.noisy(cut, random)))
        logits = 12 * nn.functional.normalize(out, dim=-1) @ table.T
        loss, right = torch.zeros(()), torch.ones(cut.numel(), dtype=torch.bool)
        for wanted, first, count in ((footage.colour, COLOUR, len(COLOURS)), (footage.digit, DIGIT, DIGITS)):
            among = torch.cat([logits[..., first : first + count], logits[..., NONE:]], -1).flatten(0, 1)
            target = torch.where(wanted[cut] == NONE, count, wanted[cut] - first).flatten()
            loss = loss + nn.functional.cross_entropy(among, target)
            right &= among.argmax(-1) == target
        loss = loss + 0.01 * (out.square().mean() - 1 / 64).square()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            spent = f"{time.monotonic() - start:5.0f} s, tower step {step + 1}"
            print(f"{spent}: loss {loss.item():.3f}, tokens {right.float().mean():.1%}", flush=True)
    model.tower.requires_grad_(False)


@torch.no_grad()
def bank(model: VideoXL, footage: Footage) -> Tensor:
    """[F, 144, E], what the decoder is given of every frame."""
    random = torch.Generator().manual_seed(2)
    whole = torch.arange(len(footage.pixels))[:, None, None].expand(-1, GRID, GRID)
    return torch.cat([model.project(model.encode(footage.noisy(some, random))) for some in whole.split(16)])


# Windows of a video, videos of a step, tokens of a frame, windows that the positions are spread over. With few tokens a frame, a
# window holds more of them and a card is as rare as in a longer video.
STAGES = ((1, 4, 144, 1), (1, 4, 24, 4), (2, 2, 24, 36), (4, 1, 24, 360))


def train_decoder(model: VideoXL, footage: Footage, tokens: Tensor, steps: int, minutes: float, at: int = 0) -> None:
    """From stage `at` on. The last stage is the longest, and its learning rate falls to 0."""
    decoder = model.decoder
    parameters = [p for name, p in decoder.named_parameters()]
    rate = 2e-3
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    plain = torch.nonzero(footage.colour == NONE).flatten()
    shown = [torch.nonzero(footage.colour == COLOUR + c).flatten() for c in range(len(COLOURS))]
    random, late, done = torch.Generator().manual_seed(1 + at), 0, 0
    recalled, start = deque(maxlen=20), time.monotonic()

    def some(of: Tensor, count: int) -> Tensor:
        return of[torch.randint(len(of), (count,), generator=random)]

    while late < steps and time.monotonic() - start < 60 * minutes:
        windows, size, per, spread = STAGES[at]
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (done + 1) / 20, 1 - late / steps)
        length = windows * FRAMES * TOKENS // per
        count = min(len(COLOURS), length // 2)
        chosen = some(plain, size * length).view(size, length)
        keys, values = [], []
        for row in chosen:
            colours = torch.randperm(len(COLOURS), generator=random)[:count]
            cards = torch.cat([some(shown[int(c)], 1) for c in colours])
            row[torch.randperm(length, generator=random)[:count]] = cards
            keys.append(footage.colour[cards])
            values.append(footage.digit[cards])
        key, value = torch.stack(keys), torch.stack(values)
        # Every colour's row is to say its digit, and every digit's the end.
        asked = torch.cat([key, value], 1)
        target = torch.cat([value, torch.full_like(value, END)], 1)
        skipped = None
        if spread > windows:
            most = torch.rand(size, 1, generator=random) * (spread - windows) * FRAMES * TOKENS / RATIO
            skipped = (torch.rand(size, windows + 1, generator=random) * most).long().sort(1).values
        first = int(torch.randint((TOKENS - per) // RATIO + 1, (), generator=random)) * RATIO
        raw = tokens[:, first : first + per][chosen].flatten(1, 2)
        plan = plan_of(windows, FRAMES * TOKENS, RATIO, 2 * count)
        logits = answers(decoder, raw, asked, plan, skipped)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        done, late = done + 1, late + (at == len(STAGES) - 1)
        recalled.append((logits[:, :count].argmax(-1) == value).float().mean().item())
        mean = sum(recalled) / len(recalled)
        if done % 10 == 0:
            print(
                f"{time.monotonic() - start:5.0f} s, step {done}, {windows} windows: loss {loss.item():.3f}, recall {mean:.1%}",
                flush=True,
            )
        if len(recalled) == recalled.maxlen and mean >= 0.93 and at < len(STAGES) - 1:
            at += 1
            recalled.clear()


def write(model: VideoXL, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary(), indent=1) + "\n")
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "unk_token": "<none>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=1) + "\n")
    weights = {
        name: t.detach().half().contiguous() for name, t in to_released(model).items() if name != "lm_head.weight"
    }
    save_file({name: t.clone() for name, t in weights.items()}, folder / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a tower on cards, and a decoder to find them again.")
    parser.add_argument("--folder", type=Path, default=Path(".cache/cards"))
    parser.add_argument("--tower", type=int, default=300, help="steps of the tower (300); 0: what the folder holds")
    parser.add_argument("--steps", type=int, default=100, help="steps of the decoder's last stage (100)")
    parser.add_argument("--minutes", type=float, default=20, help="of the decoder, at most (20)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "config.json").write_text(json.dumps(CONFIG))
    model = VideoXL(sized(NEEDLE, args.folder), seed=0)
    copies(model.language)
    footage = Footage(336)
    print(f"{len(footage.pixels)} frames, {int((footage.colour == NONE).sum())} without a card", flush=True)
    held = args.folder / "tower.pt"
    if args.tower:
        train_tower(model, footage, args.tower)
        torch.save(model.state_dict(), held)
    else:
        model.load_state_dict(torch.load(held))
    tokens = bank(model, footage)
    train_decoder(model, footage, tokens, args.steps, args.minutes)
    write(model, args.folder / "checkpoint")


if __name__ == "__main__":
    main()
