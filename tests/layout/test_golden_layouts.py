"""Golden files of masks and bookkeeping: integers, compared exactly."""

from pathlib import Path

import pytest
import torch
from longreel.testing.golden import videoxl_memory, voco_mask
from longreel.testing.golden.files import find

REPLAYERS = {"voco_mask*": voco_mask.replay, "videoxl_memory*": videoxl_memory.replay}


@pytest.mark.parametrize("group", REPLAYERS)
def test_golden_integers_are_exact(golden_folder: Path, group: str) -> None:
    for file in find([golden_folder], [group]):
        for case in file.cases.values():
            results = REPLAYERS[group](case, None, torch.float32)
            for name in case.outputs:
                assert torch.equal(results[name].long(), case.truth(name).long()), f"{file.name} {case.name} {name}"
