"""An hour of real video through a system on this machine, ours beside the reference path.

    python benchmarks/hour.py [--seconds 3600] [--cache DIR] [--sound] [any option of `longreel run`]

Makes the clip (once, under --cache), then calls `longreel run CLIP --compare --plot DIR/hour.png`.
"""

import argparse
import sys
import time
from pathlib import Path

from longreel.cli.main import app
from longreel.data import MediaError
from longreel.data.clips import hour_clip

QUESTIONS = ["What does the cyclist pass on the way?"]
OF_SOUND = ["What does the rabbit do?", "What is heard?"]


def main() -> None:
    parser = argparse.ArgumentParser(description="An hour of real video through a system, random weights.")
    parser.add_argument("--seconds", type=int, default=3600, help="length of the video (3600)")
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache"), help="folder of the video and the picture (.cache)"
    )
    parser.add_argument("--sound", action="store_true", help="a video with sound, of another clip")
    args, options = parser.parse_known_args()
    start = time.perf_counter()
    try:
        clip = hour_clip(args.cache, args.seconds, audio=args.sound)
    except (MediaError, OSError, ValueError) as error:
        sys.exit(f"hour: {error}")
    size = clip.stat().st_size / 2**20
    print(f"video          {clip}, {size:.0f} MiB, ready in {time.perf_counter() - start:.1f} s", flush=True)
    if "--question" not in options:
        options += [part for question in (OF_SOUND if args.sound else QUESTIONS) for part in ("--question", question)]
    app(["run", str(clip), "--compare", "--plot", str(args.cache / "hour.png"), *options])


if __name__ == "__main__":
    main()
