"""VoCo-LLaMA's mask: token kinds to what every row attends to."""

import numpy as np
import torch
from torch import Tensor

from longreel.layout import VideoLayout, kinds, slots
from longreel.parity.golden.files import GoldenCase

VOCO = 3


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """``visible`` [B, S, S] of the layout, and ``voco_mask`` [B, S, S]: the two blocks of keys on either side of it.

    Rows at padding positions attend to nothing here and everything in the file; no one reads them: they are set to the file's.
    """
    layout = VideoLayout.from_kinds(case.inputs(dtype)["kinds"])
    own, visible = kinds(layout), layout.dense_mask()
    visible[own == 0] = True
    rule = np.ones_like(visible)
    for b, row in enumerate(own):
        if not (row == VOCO).any():
            continue
        # Later rows attend to what a cache keeps, and what follows; rows before attend to up to the last VoCo.
        first, last = int(np.flatnonzero(slots(layout)[b] >= 0)[0]), int(np.flatnonzero(row == VOCO)[-1])
        rule[b, : last + 1, last + 1 :] = False
        rule[b, last + 1 :, :first] = False
    return {"visible": torch.from_numpy(visible).byte(), "voco_mask": torch.from_numpy(rule).byte()}
