"""What the end-to-end runs read: a feature file of noise, and an hour of video where PyAV is there to make and decode it."""

import importlib.util
from pathlib import Path

import torch

from longreel.models.setup import setup_of

_AT_ONCE = 64
_CLIP_SECONDS = 10


def noise_features(folder: Path, system: str, preset: str, frames: int, device: str | None) -> Path:
    """A feature file of this preset's tower whose frames are `_AT_ONCE` different ones of noise, again and again."""
    from longreel.models.inputs import feature_writer
    from longreel.models.sizes import computed_in

    path = folder / f"{system}-{preset}-noise.safetensors"
    setup = setup_of(system, preset, None, device)
    about = {"source": "noise", "kind": "video", "frames": "all"}
    writer = feature_writer(
        str(path), system, setup.preset, about, num_prefix_tokens=setup.prefix, device=setup.device
    )  # fmt: skip
    tower = setup.preset.tower
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_AT_ONCE, tower.patches + setup.prefix, tower.width, generator=generator)
    noise = noise.to(computed_in(setup.preset, setup.device))
    with writer:
        for first in range(0, frames, _AT_ONCE):
            count = min(_AT_ONCE, frames - first)
            writer.add(noise[:count], torch.arange(first, first + count, dtype=torch.float64))
    return path


def no_video() -> str | None:
    """Why there is no video here, or None."""
    return None if importlib.util.find_spec("av") else "not here: PyAV (av) is not installed"


def video(folder: Path, seconds: int) -> Path:
    """An hour of the sample clip (`longreel.data.clips`); where that is not installed, of moving stripes, and named so."""
    from longreel.data import MediaError
    from longreel.data.clips import hour_clip, sample_clip

    try:
        source = sample_clip()
    except MediaError:
        source = _stripes(folder / "stripes.mp4")
    return hour_clip(folder, seconds, source)


def _stripes(path: Path) -> Path:
    """Ten seconds of 640 x 272 at 25 a second: diagonal stripes that move, in noise."""
    import av

    row, column = torch.meshgrid(torch.arange(272), torch.arange(640), indexing="ij")
    generator = torch.Generator().manual_seed(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 272, "yuv420p"
        for index in range(25 * _CLIP_SECONDS):
            noise = torch.randint(0, 32, (272, 640, 3), generator=generator)
            stripes = ((row + column + 4 * index) % 96 * 2)[..., None]
            picture = (stripes + noise).to(torch.uint8).numpy()
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return path
