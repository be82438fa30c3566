"""The clips of a video's own sound."""

import warnings
from pathlib import Path

from longreel.data.audio import open_blocks
from longreel.data.errors import MediaWarning
from longreel.models.video_llama.clips import Channels, Mean, PlacedClips, Placement, clip_ranges
from longreel.models.video_llama.mel import FRAME, RATE


def open_clips(path: Path, *, count: int, placement: Placement, channels: Channels, mean: Mean) -> PlacedClips | None:
    """Clips as `longreel.models.video_llama.clips` places them; the length of the sound is what the file says it is.

    Returns:
        None, and one MediaWarning, for a video without sound, or with less than one frame of 25 ms.

    Raises:
        ValueError: no such placement. MediaError: the file cannot be read.
    """
    blocks = open_blocks(path, rate=RATE)
    if blocks is None:
        return None
    samples = blocks.length()
    try:
        ranges = clip_ranges(samples, count, placement)
    except ValueError:
        blocks.close()
        raise
    if samples < FRAME:
        blocks.close()
        warnings.warn(MediaWarning(f"{path}: its sound of {samples} samples is shorter than one frame"), stacklevel=2)
        return None
    return PlacedClips(blocks, ranges, channels=channels, mean=mean)
