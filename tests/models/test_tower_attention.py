"""Which attention a tower computes with, and that it changes no more than a rounding."""

import copy

import pytest
import torch

from longreel.models import tower as towers
from longreel.models.clip import clip_tower
from longreel.models.eva import eva_tower
from longreel.models.sizes import TowerSize
from longreel.models.tower import choose_attention, encode

pytestmark = pytest.mark.fast

SIZE = TowerSize(image=56, patch=14, width=64, layers=2, heads=2, mlp=128)


@pytest.mark.parametrize("make", [eva_tower, clip_tower])
def test_it_is_chosen_where_it_was_measured(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for isa, dtype, size, expected in (
        ("avx512_bf16", torch.bfloat16, SIZE, "longreel_flash"),
        ("avx512_bf16", torch.float32, SIZE, "sdpa"),
        ("amx", torch.bfloat16, SIZE, "sdpa"),
        ("avx512_bf16", torch.bfloat16, TowerSize(56, 14, 32, 1, 2, 64), "sdpa"),
    ):
        monkeypatch.setattr(towers, "cpu_isa", lambda isa=isa: isa)
        tower = make(size).to(dtype)  # type: ignore[operator]
        choose_attention(tower)
        assert tower.config._attn_implementation == expected, (isa, dtype, size)


@pytest.mark.parametrize("make", [eva_tower, clip_tower])
def test_features_are_sdpas_and_a_frames_own(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "cpu_isa", lambda: "avx512_bf16")
    torch.manual_seed(0)
    theirs = make(SIZE).bfloat16().eval()  # type: ignore[operator]
    ours, exact = copy.deepcopy(theirs), copy.deepcopy(theirs).double()
    choose_attention(ours)
    pixels = torch.randint(0, 256, (5, 56, 56, 3), dtype=torch.uint8)

    def features(tower: object, frames: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return encode(tower, frames, torch.empty(len(frames), 17, 64, dtype=dtype))

    found = features(ours, pixels)
    assert torch.equal(found, torch.cat([features(ours, frame) for frame in pixels.split(1)]))
    truth = features(exact, pixels, torch.float64)
    errors = [(each.double() - truth).pow(2).mean().sqrt() for each in (found, features(theirs, pixels))]
    assert errors[0] <= 1.5 * errors[1]
