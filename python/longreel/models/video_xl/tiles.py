"""A picture of any size as tiles of the tower's size."""

import itertools
from math import ceil

import numpy as np
import torch
from torch import Tensor


def released_grid(width: int, height: int, side: int, most: int) -> tuple[int, int]:
    """Tiles across and down: of all grids of at most `most` tiles the one that shows most pixels of the picture, among equals
    the one with least padding."""
    grids = [(a, b) for a, b in itertools.product(range(1, most + 1), repeat=2) if a * b <= most]

    def merit(grid: tuple[int, int]) -> tuple[int, int]:
        across, down = grid[0] * side, grid[1] * side
        scale = min(across / width, down / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - across * down

    return max(grids, key=merit)


def paper_grid(width: int, height: int, side: int, most: int) -> tuple[int, int]:
    """Tiles across and down: as many as fit the picture, one at least."""
    across, down = max(1, width // side), max(1, height // side)
    if across * down > most:
        raise ValueError(f"a picture of {width} x {height} has {across} x {down} tiles of {side}; allowed are {most}")
    return across, down


RULES = {"released": released_grid, "paper": paper_grid}


def tiles(picture: Tensor, *, side: int, most: int, rule: str) -> Tensor:
    """uint8 RGB [h, w, 3] -> its tiles [T, side, side, 3], row after row: scaled to the grid with its aspect kept, in the middle,
    on black."""
    from PIL import Image

    height, width = picture.shape[:2]
    across, down = RULES[rule](width, height, side, most)
    full_width, full_height = across * side, down * side
    scale_x, scale_y = full_width / width, full_height / height
    if scale_x < scale_y:
        size = full_width, min(ceil(height * scale_x), full_height)
    else:
        size = min(ceil(width * scale_y), full_width), full_height
    scaled = np.asarray(Image.fromarray(picture.numpy()).resize(size, Image.Resampling.BICUBIC))
    canvas = np.zeros((full_height, full_width, 3), np.uint8)
    left, top = (full_width - size[0]) // 2, (full_height - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = scaled
    cut = torch.from_numpy(canvas).unflatten(0, (down, side)).unflatten(2, (across, side))
    # [down, side, across, side, 3]
    return cut.transpose(1, 2).reshape(across * down, side, side, 3)
