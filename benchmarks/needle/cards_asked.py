"""Cards planted in the hour-long clip, and what `--preset needle` answers when it is asked for each of them.

    python benchmarks/needle/cards_asked.py [--seconds 3600] [--seed 0] [--frames fps:0.1] [--cache DIR]

One card of every colour is shown for 10 seconds; at `fps:0.1` one frame shows it. The same questions with
`longreel run CLIP --system video-xl --preset needle --frames fps:0.1 --question ...`.
"""

import argparse
import sys
import time
from pathlib import Path

from longreel.cli.console import consoles
from longreel.data import MediaError
from longreel.data.cards import dealt
from longreel.data.clips import hour_clip
from longreel.models.setup import setup_of


def ask(seconds: int, seed: int, frames: str, cache: Path) -> None:
    """Prints question, right answer and answer.

    Raises:
        MediaError, OSError, ValueError: the video is too short for the cards, or cannot be made or read.
    """
    begin = time.perf_counter()
    cards = dealt(seed, seconds)
    clip = hour_clip(cache, seconds, cards=cards)
    setup = setup_of("video-xl", "needle")
    prompts = setup.prompts([card.question for card in cards])
    start = time.perf_counter()
    with setup.open([clip], frames) as source:
        record = setup.run(setup.model(source, prompts), source, prompts)
    end = time.perf_counter()
    console, _ = consoles()
    from rich.table import Table

    table = Table("question", "shown at", "right answer", "answer")
    for card, said in zip(cards, record.answers, strict=True):
        table.add_row(card.question, f"{card.second:,} s", str(card.digit), said or "(nothing)")
    right = sum(said == str(card.digit) for card, said in zip(cards, record.answers, strict=True))
    console.print(table)
    console.print(
        f"{right} of {len(cards)} right; {record.frames:,} frames of {clip}, {record.tokens:,} tokens cached,"
        f" {end - start:.1f} s, the video ready in {start - begin:.1f} s",
        soft_wrap=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Asks for cards that are planted in an hour of video.")
    parser.add_argument("--seconds", type=int, default=3600, help="length of the video (3600)")
    parser.add_argument("--seed", type=int, default=0, help="of places and digits (0)")
    parser.add_argument("--frames", default="fps:0.1", help="that are taken (fps:0.1)")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder of the video (.cache)")
    args = parser.parse_args()
    try:
        ask(args.seconds, args.seed, args.frames, args.cache)
    except (MediaError, OSError, ValueError) as error:
        sys.exit(f"cards: {error}")


if __name__ == "__main__":
    main()
