"""What `plan` says, beside what a run has: counts to the byte, the peak of its tensors within 5 %."""

from contextlib import nullcontext

import pytest
import torch
from live_tensors import stages_of

from longreel.models import plan
from longreel.models.inputs import Input
from longreel.models.planning import _last
from longreel.models.setup import setup_of
from longreel.models.system import Chunk, InputFacts

OPTIONS = {
    "llama-vid": {},
    "voco-llama": {"voco": 2, "mode": "causal"},
    "video-xl": {"ratio": "2,8"},
    "video-llama": {"interpolate": True},
}
SYSTEMS = list(OPTIONS)


def planned(system: str, frames: int, **given):
    return plan(system, "tiny", frames=frames, options=OPTIONS[system] | given.pop("options", {}), **given)


@pytest.mark.parametrize(
    ("frames", "chunk", "dtype"),
    [(4, 8, "float32"), (12, 8, "float32"), (20, 8, "float32"), (20, 8, "bfloat16"), (40, 20, "bfloat16")],
)
@pytest.mark.parametrize("system", SYSTEMS)
def test_what_a_run_has(system: str, frames: int, chunk: int, dtype: str) -> None:
    setup = setup_of(system, "tiny", None, "cpu", OPTIONS[system], dtype=dtype)
    kept, peaks = stages_of(setup, setup.prompts(["What happens in this video?"]), frames, chunk=chunk)
    # Video-LLaMA's frames here have no sound: its tokens are not there.
    made = planned(system, frames, chunk=chunk, dtype=dtype)
    silent = 0 if setup.system.audio is None else setup.preset.listen.queries
    each = setup.preset.language.width * getattr(torch, dtype).itemsize
    assert made.cost.tokens - silent == kept.tokens
    assert made.cost.cached - silent * each == kept.nbytes
    assert made.cost.read == kept.tokens_read
    assert made.cost.live == pytest.approx(max(peaks.values()), rel=0.05)


@pytest.mark.parametrize("system", SYSTEMS)
def test_weights_are_those_of_the_model(system: str) -> None:
    setup = setup_of(system, "tiny", None, "cpu", OPTIONS[system])
    model = setup.model(Input(InputFacts(setup.prefix, False, 1)), setup.prompts(["?"]))
    assert planned(system, 4).weights == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("system", SYSTEMS)
def test_keys_and_values_of_the_answer(system: str) -> None:
    """To the byte: what the caches of a run have allocated."""
    setup = setup_of(system, "tiny", None, "cpu", OPTIONS[system], dtype="float32")
    prompts = setup.prompts(["Why?"])
    made = planned(system, 20, questions=["Why?"], chunk=8, dtype="float32")
    size = setup.preset.language
    token = 2 * size.layers * size.kv_heads * size.head * 4
    if setup.system.memory is None or setup.system.audio is not None:
        assert made.cost.cache == token * (made.cost.tokens + prompts.longest)
        return
    model = setup.model(Input(InputFacts(setup.prefix, False, 20)), prompts)
    session = setup.system.session(model, prompts, "longreel", expected=20, compare=False)
    features = torch.zeros(20, setup.preset.tower.patches + setup.prefix, setup.preset.tower.width)
    with torch.inference_mode():
        for few in features.split(8):
            session.consume(Chunk(few), lambda name: nullcontext())
        session.finish(lambda name: nullcontext())
    cache = session._cache
    if hasattr(cache, "planned_bytes"):
        assert made.cost.cache == cache.planned_bytes(1, torch.float32) + cache.planned_bytes(
            1, torch.float32, text=True
        )
    else:
        held = {
            t.untyped_storage().data_ptr(): t.untyped_storage()
            for layer in cache.layers
            for t in (layer.keys, layer.values)
        }
        assert made.cost.cache == sum(storage.nbytes() for storage in held.values())
    assert size.layers == len(cache.layers)


@pytest.mark.fast
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_largest_number_of_frames(system: str) -> None:
    """It fits, and one more does not."""
    # On a GPU: there the process, whose size changes from call to call, is not counted.
    alike = {"gpu": True} | ({"options": {"ratio": 4}} if system == "video-xl" else {})
    room = planned(system, 1, **alike).peak + (40 << 20)
    # Where memory does not grow with the frames nothing ends it.
    made = planned(system, 4, memory=1 << 40, **alike)
    if made.most is not None:
        assert made.cost.limit >= planned(system, made.most, **alike).cost.positions
        assert planned(system, made.most + 1, **alike).cost.positions > made.cost.limit
    made = planned(system, 10**5, memory=room, **alike)
    if made.most is not None:
        fits, more = (planned(system, frames, **alike) for frames in (made.most, made.most + 1))
        assert fits.peak <= room
        assert more.peak > room or more.cost.positions > more.cost.limit
        assert not made.fits


@pytest.mark.fast
def test_what_to_change() -> None:
    made = planned("video-xl", 3600, memory=39 << 29, gpu=True, options={"ratio": 8})
    big = plan("video-xl", "7b", frames=3600, memory=39 << 29, gpu=True)
    assert made.fits
    assert not made.changes
    assert not big.fits
    assert big.peak > 39 << 29
    by_flag = {change.flag: change for change in big.changes}
    assert by_flag["--ratio 12"].fits
    assert by_flag["--ratio 12"].most >= 3600
    assert plan("video-xl", "7b", frames=3600, memory=39 << 29, gpu=True, options={"ratio": 12}).most == (
        by_flag["--ratio 12"].most
    )
    fewer = plan("llama-vid", "7b", frames=3600, memory=80 << 30, gpu=True, options={"tokens_per_frame": "64"})
    assert fewer.most == (65536 - 36) // 65
    assert [change.flag for change in fewer.changes if change.fits] == ["--tokens-per-frame 16"]


@pytest.mark.fast
@pytest.mark.parametrize("last", [1, 2, 3, 7, 8, 1000])
def test_the_last_number_is_found(last: int) -> None:
    assert _last(lambda n: "so" if n > last else None) == (last, "so")
    assert _last(lambda n: "at once") == (0, "at once")
    assert _last(lambda n: None) == (None, "")


@pytest.mark.fast
def test_refused_as_a_run_would_be() -> None:
    with pytest.raises(ValueError, match="--interpolate"):
        plan("video-llama", "tiny", frames=33)
    with pytest.raises(ValueError, match="frames=0"):
        plan("llama-vid", "tiny", frames=0)
    with pytest.raises(ValueError, match="an option of video-xl"):
        plan("llama-vid", "tiny", frames=1, options={"ratio": 4})
