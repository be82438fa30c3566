"""Cards that launches are compiled for."""

from longreel.triton_kernels.common.card import LARGE_SHARED, PORTABLE_SHARED, Card

EVERY = Card(50 << 20, PORTABLE_SHARED, 132, wgmma=True)
LARGE = Card(50 << 20, LARGE_SHARED, 132, wgmma=True)
