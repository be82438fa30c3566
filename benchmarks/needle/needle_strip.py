"""The strip of what mattered: cards planted in an hour of video, and which frames `--preset needle` read for each question.

    python benchmarks/needle/needle_strip.py [--seconds 3600] [--seed 0] [--frames fps:0.1] [--cache DIR] [-o strip.html]

Above, of each question, how much the row that chooses the answer attends to every frame's VST tokens in the memory (mean over
layers and heads), and to every chunk. Below the frames that it read most; beside each, where context attention looks in it:
`context_attention(return_weights=True)`, its query the tower's own patches of the card that is asked for (its colour, any digit).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from longreel import context_attention
from longreel.data import MediaError
from longreel.data import frames as open_frames
from longreel.data.cards import DIGITS, DigitCard, dealt
from longreel.data.clips import hour_clip
from longreel.files.output import write_text
from longreel.models.setup import setup_of
from longreel.models.video_xl.attended import attended, over_frames
from longreel.models.video_xl.session import vst_of
from longreel.report.strip import Asked, Pixels, strip_page

RATIO = 8


@torch.inference_mode()
def strip(seconds: int, seed: int, frames: str, cache: Path) -> str:
    """The page."""
    cards = dealt(seed, seconds)
    clip = hour_clip(cache, seconds, cards=cards)
    setup = setup_of("video-xl", "needle", options={"ratio": RATIO})
    prompts = setup.prompts([card.question for card in cards])
    with setup.open([clip], frames) as source:
        model = setup.model(source, prompts)
    preset = model.preset
    pixels: list[Pixels] = []
    times: list[float] = []
    features: list[Tensor] = []
    with open_frames([clip], frames, size=preset.tower.image, fit=setup.system.fit, chunk=preset.chunk) as stream:
        for chunk in stream:
            pixels += list(chunk.pixels.numpy())
            times += chunk.times.tolist()
            features.append(model.encode(chunk.pixels))
    patches = torch.cat(features)
    prefix = prompts.prompts[0][0].tolist()
    room = model.decoder.cache(len(prefix) + vst_of(model, len(patches)), text_capacity=prompts.longest)
    memory = model.read(patches, prefix=prefix, cache=room)
    asked, each = [], preset.window // RATIO
    for card, (_, question) in zip(cards, prompts.prompts, strict=True):
        with attended(model.language) as record:
            ids, _ = model.answer(memory, question, length=prompts.length, stop=prompts.stop)
        # The row that chooses the first token of the answer.
        weights = torch.stack([layer[len(question) - 1] for layer in record.layers]).mean(0)
        chunks = torch.stack([part.sum() for part in weights[len(prefix) :].split(each)])
        asked.append(
            Asked(
                card.question, prompts.decode(ids.flatten().tolist()) if prompts.decode else str(ids.tolist()), str(card.digit),
                over_frames(weights, len(prefix), len(patches), preset.frame, RATIO).numpy(), chunks.numpy(),
                _looked(model, card, patches), _shown(card, times),
            )
        )  # fmt: skip
    right = sum(one.answer == one.right for one in asked)
    windows = preset.window // preset.frame
    found = sum(any(place // windows == int(one.chunks.argmax()) for place in one.planted) for one in asked)
    about = [
        f"{clip.name}: {len(pixels):,} frames ({frames}), {memory.tokens:,} tokens cached at ratio {RATIO};"
        f" {right} of {len(asked)} answers are right, and of {found} the chunk read most holds the card."
        " The VST tokens behind a card carry it too. Green: the frame that shows the card.",
        "Weights: the row that chooses the answer's first token over the memory, mean over layers and heads. Under each frame,"
        " where context attention looks in it: the query is the tower's own patches of a card of that colour.",
    ]
    print(about[0])
    return strip_page("What mattered: cards in an hour of video", about, pixels, times, asked)


def _looked(model: torch.nn.Module, card: DigitCard, patches: Tensor) -> np.ndarray:
    """Weights [F, N] of context attention whose query is the mean patch of cards of this colour."""
    size = model.preset.tower.image
    pictures = np.stack([DigitCard(card.colour, digit, 0).picture(size, size) for digit in range(DIGITS)])
    query = model.encode(torch.from_numpy(pictures)).mean((0, 1), keepdim=True)[0]
    _, weights = context_attention(query, patches, return_weights=True)
    return weights.float().numpy()


def _shown(card: DigitCard, times: list[float]) -> tuple[int, ...]:
    return tuple(i for i, at in enumerate(times) if card.second <= at < card.second + 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3600, help="length of the video (3600)")
    parser.add_argument("--seed", type=int, default=0, help="of places and digits (0)")
    parser.add_argument("--frames", default="fps:0.1", help="that are taken (fps:0.1)")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder of the video (.cache)")
    parser.add_argument("-o", "--output", type=Path, default=Path("strip.html"), help="the page (strip.html)")
    args = parser.parse_args()
    try:
        write_text(args.output, strip(args.seconds, args.seed, args.frames, args.cache))
    except (MediaError, OSError, ValueError) as error:
        sys.exit(f"strip: {error}")
    print(args.output)


if __name__ == "__main__":
    main()
