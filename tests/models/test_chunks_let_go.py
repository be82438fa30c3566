"""The driver holds one chunk at a time: what peaks of memory are planned with."""

import weakref

import pytest
import torch

from longreel.data import FrameChunk
from longreel.models.inputs import Input
from longreel.models.setup import setup_of
from longreel.models.system import InputFacts


@pytest.mark.parametrize("system", ["llama-vid", "voco-llama", "video-xl", "video-llama"])
def test_no_chunk_is_alive_beside_the_next(system: str) -> None:
    """Neither the pixels nor the features, whoever held them last."""
    setup = setup_of(system, "tiny")
    prompts, image, held = setup.prompts(), setup.preset.tower.image, list[weakref.ref[object]]()

    def pixels() -> torch.Tensor:
        made = torch.zeros(1, image, image, 3, dtype=torch.uint8)
        held.append(weakref.ref(made.untyped_storage()))
        return made

    stream = (FrameChunk(pixels(), torch.tensor([second], dtype=torch.float64)) for second in range(3))
    source = Input(InputFacts(setup.prefix, False, 3), frames=stream, chunk=1)
    model = setup.model(source, prompts)
    encode = model.encode

    def encoded(frames: torch.Tensor) -> torch.Tensor:
        # What this call was given is the last one.
        assert [one() is not None for one in held[:-1]] == [False] * (len(held) - 1)
        made = encode(frames)
        held.insert(-1, weakref.ref(made.untyped_storage()))
        return made

    model.encode = encoded
    record = setup.run(model, source, prompts)
    assert record.frames == 3
    assert len(held) == 7
