"""What every test shares: a seed, and the folder of golden files."""

import atexit
import gc
import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Golden files: LONGREEL_GOLDEN, or shared/golden beside or inside the repository. A public clone has none."""
    named = os.environ.get("LONGREEL_GOLDEN")
    places = [Path(named)] if named else [ROOT / "shared/golden", ROOT.parent / "shared/golden"]
    for place in places:
        if (place / "MANIFEST.json").exists():
            return place
    if named:
        pytest.fail(f"LONGREEL_GOLDEN={named} has no MANIFEST.json")
    pytest.skip(
        f"golden files are not part of a public clone; looked in {', '.join(map(str, places))} (LONGREEL_GOLDEN names them)"
    )


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Tests and modules out of the collector's sight: to walk through them takes a second, and a peak begins with a walk."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)
