"""Questions about a video while it goes on: frames are appended as they come, and what is cached never passes its cap.

    python examples/live_memory.py VIDEO [--system video-xl] [--every 30] [--max-mib 64]

The file stands in for a camera. Weights are random, so that the answers are ids.
"""

import argparse
import time

from longreel.data import frames
from longreel.models import VideoMemory


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a video while it goes on.")
    parser.add_argument("video")
    parser.add_argument("--system", default="video-xl")
    parser.add_argument("--every", type=int, default=30, help="frames between two questions")
    parser.add_argument("--max-mib", type=int, default=64, help="of what is cached")
    args = parser.parse_args()
    memory = VideoMemory(args.system, max_bytes=args.max_mib << 20)
    due = args.every
    with frames(args.video, "fps:1", size=memory.image, chunk=10) as camera:
        for chunk in camera:
            try:
                memory.append(chunk.pixels)
            except MemoryError as full:
                print(f"after {memory.frames:,} frames: {full}")
                break
            if memory.frames >= due:
                due += args.every
                start = time.perf_counter()
                said = memory.ask("What happened in the last minute?")
                took = time.perf_counter() - start
                print(
                    f"frame {memory.frames:,}: {said.text or said.ids} ({took:.2f} s, {memory.nbytes / 2**20:.1f} MiB)"
                )
    memory.save("live.safetensors")
    print("more questions: longreel ask live.safetensors --question ...")


if __name__ == "__main__":
    main()
