"""Names that were public before 0.1.0 mean what the newer ones do."""

import pytest

from longreel import layout
from longreel.cache.voco import VoCoCounts
from longreel.cache.vst_step import VSTCounts
from longreel.models import system
from longreel.models.cost import SystemCost
from longreel.models.voco_llama import VoCoDecoder, VoCoLlama

pytestmark = pytest.mark.fast


def test_older_names() -> None:
    assert system.Kept is system.Cached
    assert (layout.kept, layout.kept_runs) == (layout.cached, layout.cached_ranges)
    assert (VoCoDecoder.see, VoCoLlama.see) == (VoCoDecoder.encode, VoCoLlama.encode_video)
    assert SystemCost(tokens=2, cached=5, cache=0, read=0, positions=0, limit=0, stages=()).kept == 5
    assert VoCoCounts(prefix=2, voco=3).kept == VSTCounts(prefix=4, vst=1).kept == 5
