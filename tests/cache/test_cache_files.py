"""Files of compressed caches: those of older versions load; what cannot be is refused in one line, never half-written."""

import json
import random
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from drivers import WIDTH, model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from longreel.cache import VoCoCache

OLD = Path(__file__).parent / "files/voco_cache_1.safetensors"
SEGMENTS = [("prefix", 2), *[("vision", 3), ("text", 1), ("voco", 2)] * 2]

pytestmark = pytest.mark.fast


def filled(**options: Any) -> VoCoCache:
    cache = VoCoCache(model().config, **options)
    cache.append(model().model, torch.randn(1, 14, WIDTH, generator=torch.Generator().manual_seed(0)), SEGMENTS)
    return cache


@pytest.fixture
def path(tmp_path: Path) -> Path:
    filled(mode="causal", prefix_visible_to="frames").save(tmp_path / "cache", {"frames": 2})
    return tmp_path / "cache"


def changed(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """The file with another header and other tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    own = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["longreel"])
    tensors = load_file(path)
    change(own, tensors)
    save_file(tensors, path, metadata={"longreel": json.dumps(own)})


OLD_CONFIG = LlamaConfig(
    vocab_size=40, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
)


def test_a_file_of_version_1_loads(tmp_path: Path) -> None:
    cache = VoCoCache.load(OLD, OLD_CONFIG)
    held = cache.held
    assert (held.prefix, held.voco, held.frame_at, held.text_at, held.kept) == (2, 4, 6, 11, 6)
    assert (cache.mode, cache.prefix_visible_to, cache.text_sees_prefix, cache.positions, cache.rows) == (
        "causal", "frames", False, "compact", 6,
    )  # fmt: skip
    assert VoCoCache.described(OLD) == {"frames": 2, "patches": 4}
    sums = [float(getattr(layer, name).sum()) for layer in cache.layers for name in ("keys", "values")]
    assert sums == pytest.approx([0.50893408, -0.12594035, -0.29345661, -0.20488031])
    # It does not tell its segments, and so does what is saved of it.
    cache.save(tmp_path / "again")
    again = VoCoCache.load(tmp_path / "again", OLD_CONFIG)
    assert (again.counts, again.segments) == (cache.counts, None)


def number(name: str, value: object) -> Callable[..., None]:
    return lambda own, tensors: own["counts"].update({name: value})


def header(name: str, value: object) -> Callable[..., None]:
    return lambda own, tensors: own.update({name: value})


def tensor(name: str, value: torch.Tensor | None) -> Callable[..., None]:
    return lambda own, tensors: tensors.pop(name) if value is None else tensors.update({name: value})


def nan(own: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["values.1"][0, 0, 3, 2] = float("nan")


def fewer(own: dict[str, Any], tensors: dict[str, Any]) -> None:
    for name in tensors:
        tensors[name] = tensors[name][:, :, :5].contiguous() if name != "segments" else tensors[name]


def cut_segments(own: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["segments"] = tensors["segments"][:4].contiguous()


def mixed(own: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["keys.0"] = tensors["keys.0"].half()


CONTRADICTIONS = [
    (number("voco", 5), "its segments leave .*voco=4"),
    (number("voco", -1), r"counts of voco is -1; allowed: a whole number from 0"),
    (number("voco", 1.5), "counts of voco is 1.5"),
    (number("voco", True), "counts of voco is True"),
    (number("voco", 10**30), "allowed: a whole number from 0"),
    (number("text_at", 2), r"6 tokens do not end at position 2"),
    (number("frame_at", 10), "its segments leave"),
    (number("kept", 3), r"counts has unknown \['kept'\]"),
    (header("counts", [1, 2]), "counts is .1, 2., no table of names"),
    (header("layers", "2"), "layers is '2'"),
    (header("layers", 3), "has 3 layers, the model 2"),
    (header("about", 3), "about is no table of names"),
    (header("held", {}), r"the header has unknown \['held'\]"),
    (header("format", ["a"]), r"its format is \['a'\], allowed"),
    (header("options", {"mode": "causal"}), "options has unknown .* and lacks"),
    (lambda own, t: own["options"].update(mode="image"), "mode='image' is not one of"),
    (lambda own, t: own["options"].update(text_sees_prefix="no"), "text_sees_prefix='no' is not True or False"),
    (lambda own, t: own["options"].update(__class__="x"), "options has unknown"),
    (lambda own, t: own["options"].update(positions="absolute"), "its segments leave"),
    (fewer, "6 tokens are claimed, 5 are there"),
    (nan, "values.1 holds NaN"),
    (mixed, "allowed: one shape"),
    (tensor("keys.1", None), "6 tokens in 2 layers are claimed"),
    (tensor("extra", torch.ones(1)), "6 tokens in 2 layers are claimed"),
    (tensor("segments", torch.ones(3, 4)), "segments are F32"),
    (tensor("segments", torch.tensor([[9, 1, 0, 0]])), "of no kind"),
    (tensor("segments", torch.tensor([[3, -1, 0, 0]])), "allowed: a whole number from 1"),
    (tensor("segments", torch.tensor([[3, 2**40, 0, 0]])), "allowed: a whole number from 1"),
    (tensor("keys.1", torch.zeros(1, 1, 6, 8, dtype=torch.int32)), "allowed: one shape"),
    (cut_segments, "its segments leave"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), CONTRADICTIONS, ids=[says for _, says in CONTRADICTIONS])
def test_a_file_that_contradicts_itself(path: Path, change: Callable[..., None], says: str) -> None:
    changed(path, change)
    with pytest.raises(ValueError, match=says) as refused:
        VoCoCache.load(path, model().config)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{", '{"format": NaN}', '"text"', "null", '{"layers": ' + "9" * 5000 + "}", "[]"]
)
def test_a_header_that_is_none(path: Path, text: str) -> None:
    save_file(load_file(path), path, metadata={"longreel": text})
    assert VoCoCache.described(path) is None
    with pytest.raises(ValueError, match="is not a VoCoCache"):
        VoCoCache.load(path, model().config)


@pytest.mark.slow
def test_damaged_bytes(path: Path) -> None:
    """A changed byte is refused, or changes a number that it held: no other error comes out."""
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 4))):
            data[chance.randrange(len(data) if chance.random() < 0.3 else 900)] = chance.randrange(256)
        path.write_bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data)
        VoCoCache.described(path)
        with suppress(ValueError):
            VoCoCache.load(path, model().config)


def test_no_file_and_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        VoCoCache.load(tmp_path / "none", model().config)
    with pytest.raises(ValueError, match="not a regular file"):
        VoCoCache.load(tmp_path, model().config)
    assert VoCoCache.described(tmp_path / "none") is None


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file grows beyond 100 KB."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_is_full(path: Path) -> None:
    """One line; the file that was there stays, and so does one of the user's that is named like a part of it."""
    before, part = path.read_bytes(), path.with_name("cache.part")
    part.write_text("mine")
    cache = filled()
    for layer in cache.layers:
        layer.keys, layer.values = (t.expand(300, -1, -1, -1) for t in (layer.keys, layer.values))
    with pytest.raises(OSError, match="cannot be written") as refused:
        cache.save(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == before
    assert part.read_text() == "mine"
    filled().save(path)
    assert part.read_text() == "mine"
    assert sorted(p.name for p in path.parent.iterdir()) == ["cache", "cache.part"]


def test_what_is_not_saved(path: Path) -> None:
    before, cache = path.read_bytes(), filled()
    with pytest.raises(OSError, match="cannot be written"):
        cache.save(path / "below")
    with pytest.raises(TypeError, match="not JSON serializable"):
        cache.save(path, {"tensor": torch.ones(1)})
    cache.layers[1].keys = cache.layers[1].keys.clone().fill_(float("nan"))
    with pytest.raises(ValueError, match="keys of layer 1 hold NaN: nothing is saved"):
        cache.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["cache"]


def test_the_layout_is_saved(path: Path) -> None:
    cache = VoCoCache.load(path, model().config)
    assert cache.segments is not None
    assert [(segment.kind, segment.length) for segment in cache.segments] == SEGMENTS
