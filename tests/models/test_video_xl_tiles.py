"""Pictures of any size as tiles, by both rules."""

import pytest
import torch

from longreel.models.video_xl.tiles import paper_grid, released_grid, tiles

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("size", "released", "paper"),
    [
        ((336, 336), (1, 1), (1, 1)),
        ((100, 80), (1, 1), (1, 1)),
        ((672, 672), (2, 2), (2, 2)),
        ((700, 400), (3, 2), (2, 1)),
        ((400, 1400), (2, 5), (1, 4)),
        ((336 * 7, 336 * 7), (7, 7), (7, 7)),
    ],
)
def test_grids(size: tuple[int, int], released: tuple[int, int], paper: tuple[int, int]) -> None:
    assert released_grid(*size, 336, 49) == released
    assert paper_grid(*size, 336, 49) == paper


def test_a_picture_that_is_too_large_for_the_papers_rule() -> None:
    with pytest.raises(ValueError, match="11 x 8 tiles of 336; allowed are 49"):
        paper_grid(4000, 3000, 336, 49)
    across, down = released_grid(4000, 3000, 336, 49)
    assert across * down <= 49


def test_every_pixel_at_its_place() -> None:
    """A picture of exactly 3 x 2 tiles, each of one colour: row after row."""
    colours = torch.arange(1, 7, dtype=torch.uint8) * 40
    picture = colours.view(2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)[..., None].expand(-1, -1, 3)
    for rule in ("released", "paper"):
        cut = tiles(picture.contiguous(), side=8, most=49, rule=rule)
        assert cut.shape == (6, 8, 8, 3)
        assert torch.equal(cut[:, 4, 4, 0], colours)


def test_black_around_a_picture_of_another_shape() -> None:
    cut = tiles(torch.full((8, 16, 3), 200, dtype=torch.uint8), side=8, most=1, rule="released")
    assert cut.shape == (1, 8, 8, 3)
    assert cut[0, :2].eq(0).all()
    assert cut[0, -2:].eq(0).all()
    assert cut[0, 2:6].eq(200).all()
