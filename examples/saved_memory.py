"""What a model remembers of a video, saved, and asked again later: nothing is decoded or encoded twice.

python examples/saved_memory.py [FILE]

The preset "needle" is a small model that was trained for cards with digits; the frames here are noise with a few cards in it.
"""

import sys

import torch

from longreel.data.cards import dealt
from longreel.models import VideoMemory

file = sys.argv[1] if sys.argv[1:] else "memory.safetensors"
cards = dealt(0, 300)  # one frame for ten seconds
memory = VideoMemory("video-xl", "needle", max_bytes=64 << 20)
side = memory.image
frames = torch.randint(0, 256, (30, side, side, 3), dtype=torch.uint8)
for card in cards:
    frames[card.second // 10] = torch.from_numpy(card.picture(side, side).copy())
memory.append(frames)
memory.save(file)
print(f"{memory.frames} frames in {memory.nbytes / 2**20:.1f} MiB")

again = VideoMemory.load(file)
for card in cards[:3]:
    print(card.question, again.ask(card.question).text, "- it was", card.digit)
