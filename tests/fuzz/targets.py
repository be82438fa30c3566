"""What foreign bytes are given to. A target makes its whole input once and takes mutated ones; what it raises for them is a
ValueError, MemoryError or OSError of one line, or what it accepts agrees with itself."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import json_text, tensor_file
from result_files import results

from longreel.layout.segments import CODE, whole

Take = Callable[[random.Random], None]
"""One mutated input, taken; raises as its module says, AssertionError where something contradictory was accepted."""


def features(folder: Path) -> Take:
    from longreel.data import FeatureStream, FeatureWriter

    path = folder / "a.safetensors"
    with FeatureWriter(path, 5, 8, torch.float32, {"system": "x"}, others=("audio",)) as writer:
        writer.add(torch.ones(7, 5, 8), torch.arange(7.0), {"audio": (torch.ones(3, 2), torch.arange(3.0))})
    data = path.read_bytes()

    def take(draw: random.Random) -> None:
        path.write_bytes(tensor_file(data, draw))
        with FeatureStream(path, chunk=draw.choice((1, 3, 64))) as stream:
            chunks = list(stream)
        times = torch.cat([chunk.times for chunk in chunks])
        assert stream.shape == (len(times), *chunks[0].features.shape[1:])
        assert bool(times.isfinite().all())
        assert path.stat().st_size < 2 * len(data)

    return take


def caches(folder: Path) -> Take:
    from transformers import LlamaConfig

    from longreel.cache import VoCoCache
    from longreel.cache.file import write

    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
    )  # fmt: skip
    cache, path = VoCoCache(config, mode="causal"), folder / "cache.safetensors"
    segments = [whole(row) for row in (("prefix", 2), *[("vision", 3), ("text", 1), ("voco", 2)] * 2)]
    counts = cache._counts_of(segments)
    header = {
        "format": VoCoCache.FORMAT, "layers": 2, "about": {"frames": 2}, "counts": asdict(counts), "options": cache._options(),
    }  # fmt: skip
    tensors = {f"{name}.{i}": torch.ones(1, 1, counts.cached, 8) for i in range(2) for name in ("keys", "values")}
    write(path, header, tensors | {"segments": torch.tensor([(CODE[each.kind], *each[1:]) for each in segments])})
    assert VoCoCache.load(path, config).counts == counts
    data = path.read_bytes()

    def take(draw: random.Random) -> None:
        path.write_bytes(tensor_file(data, draw, "longreel"))
        VoCoCache.described(path)
        try:
            read = VoCoCache.load(path, config, max_bytes=draw.choice((None, 1 << 20)))
        except MemoryError as error:
            if "max_bytes is" not in str(error):
                raise
            raise ValueError(str(error)) from None
        assert all(layer.tokens == read.counts.cached for layer in read.layers)
        read.save(folder / "again")

    return take


def memories(folder: Path) -> Take:
    """What `longreel ask` reads of a saved memory before a model is made."""
    from longreel.cache.file import write
    from longreel.models.memory import described, made_by, open_memory
    from longreel.models.setup import setup_of

    setup = setup_of("voco-llama", "tiny", device="cpu", save=True)
    about = made_by("voco-llama", setup.preset, setup.weights) | {
        "options": asdict(setup.options), "frames": 2, "patches": 1152,
    }  # fmt: skip
    path = folder / "memory.safetensors"
    write(path, {"format": "x", "layers": 1, "about": about, "counts": {}, "options": {}}, {"keys.0": torch.ones(1)})
    assert open_memory(path, "voco-llama", setup.preset, setup.weights) is not None
    data = path.read_bytes()

    def take(draw: random.Random) -> None:
        path.write_bytes(tensor_file(data, draw, "longreel"))
        if described(path) is None:
            raise ValueError("no saved memory")
        assert open_memory(path, "voco-llama", setup.preset, setup.weights) is not None
        with setup.open([path]) as source:
            options = setup._options_of(source)
        assert options.mode in ("independent", "causal")

    return take


def checkpoints(folder: Path) -> Take:
    """A folder of VoCo-LLaMA's, small."""
    from longreel.files.tensors import write_tensors
    from longreel.models.inputs import Input
    from longreel.models.setup import setup_of
    from longreel.models.sizes import LanguageSize, TowerSize
    from longreel.models.system import InputFacts
    from longreel.models.voco_llama import PRESETS, Preset, VoCoLlama, to_released

    small = Preset(
        name="small-for-tests",
        tower=TowerSize(image=28, patch=14, width=16, layers=1, heads=2, mlp=16),
        language=LanguageSize(width=16, layers=1, heads=2, kv_heads=1, mlp=16, vocabulary=301, positions=4096),
    )
    PRESETS[small.name] = small
    config = {
        "model_type": "llava_llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 301, "max_position_embeddings": 4096,
        "mm_hidden_size": 16, "mm_vision_tower": "openai/a-clip", "mm_vision_select_layer": -2, "rms_norm_eps": 1e-5,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "mm_projector_type": "mlp2x_gelu", "hidden_act": "silu",
        "tie_word_embeddings": False, "attention_bias": False,
    }  # fmt: skip
    place = folder / "checkpoint"
    place.mkdir()
    weights = place / "model.safetensors"
    write_tensors(weights, to_released(VoCoLlama(small, seed=3)), {})
    data, text = weights.read_bytes(), json.dumps(config)

    def take(draw: random.Random) -> None:
        mutate_config = draw.random() < 0.7
        read(json_text(config, draw) if mutate_config else text, data if mutate_config else tensor_file(data, draw))

    def read(text: str, data: bytes) -> None:
        (place / "config.json").write_text(text)
        weights.write_bytes(data)
        setup = setup_of("voco-llama", small.name, place, "cpu")
        prompts = setup.prompts(["?"])
        setup.model(Input(InputFacts(0, False, 2)), prompts)

    read(text, data)
    return take


def layouts(folder: Path) -> Take:
    from longreel.layout import VideoLayout

    numbers: tuple[Any, ...] = (
        0, 1, 2, 3, 7, 16, 100, -1, 2**11, 2**20, 2**31, 2**33, 2**62, 2**63, 10**30, True, None, 1.5, float("nan"), "3",
        np.int8(100), np.int32(2**20), np.int32(2**11), np.uint8(200), np.int64(2**40), np.float32(2), torch.tensor(3), [3],
    )  # fmt: skip
    makers: tuple[Callable[[Callable[[], Any]], Any], ...] = (
        lambda n: VideoLayout.voco(frames=n(), vision=n(), voco=n(), text=n(), prefix=n(), separator=n()),
        lambda n: VideoLayout.vst(visual=n(), chunk=n(), ratio=n(), prefix=n(), text=n()),
        lambda n: VideoLayout.vst(ratio=[(n(), n()), (n(), n())], text=n()),
        lambda n: VideoLayout.vst(visual=n(), chunk=n(), ratio_mix=[n(), n()], seed=3, max_positions=n()),
        lambda n: VideoLayout.of([("prefix", n()), ("text", n())]),
        lambda n: VideoLayout.of([("vst", n(), n(), n()), ("text", n())], attention="vst"),
        lambda n: VideoLayout.of([("vision", n()), ("voco", n())], attention="causal"),
        lambda n: VideoLayout.causal(n()),
        lambda n: VideoLayout.sliding_window(n(), n(), n()),
        lambda n: VideoLayout.blocks([n() for _ in range(6)], window=n(), chunk=n()),
        lambda n: VideoLayout.from_cu_seqlens([0, n(), n()]),
        lambda n: VideoLayout.causal(40).rows(n(), n()),
        lambda n: VideoLayout.causal(40).extend(n()),
        lambda n: VideoLayout.from_kinds([[n(), 2, 3, n(), 1]]),
    )  # fmt: skip

    def take(draw: random.Random) -> None:
        usual = draw.random()

        def number() -> Any:
            return draw.choice(numbers) if draw.random() > usual else draw.randrange(1, 12)

        try:
            layout = draw.choice(makers)(number)
        except TypeError as error:
            raise ValueError(str(error)) from None
        assert type(layout.length) is int
        assert 0 <= layout.length < 2**31
        if layout.length <= 1 << 16:
            tile = (draw.choice((1, 16, 128)), draw.choice((1, 16, 64)))
            layout.plan(tile)

    return take


def tables(folder: Path) -> Take:
    """Calls of the native planner with numbers of its tables changed, rows of them missing, twice or turned round."""
    from longreel import VideoLayout, _native
    from longreel.layout._ranges import ranges

    layouts = [
        VideoLayout.voco(frames=3, vision=5, voco=2, text=4, prefix=2, mode="causal"),
        VideoLayout.vst(visual=20, chunk=8, ratio=3, prefix=2, text=3).grouped(),
        VideoLayout.batch([VideoLayout.sliding_window(20, 4, 2), VideoLayout.causal(9)]),
        VideoLayout.blocks([0, 0, 1, 1, 2], causal=False),
    ]
    held = [(layout, ranges(layout).table(), layout.plan((16, 16))) for layout in layouts]

    def take(draw: random.Random) -> None:
        host, (layout, segments, schedule) = _native.HOST, draw.choice(held)
        if host is None:
            raise ValueError("there is no native planner")

        def number(usual: int) -> int:
            return usual if draw.random() < 0.8 else draw.choice(_WHOLE)

        def changed(table: Any) -> Any:
            table = table.copy()
            flat, width = table.reshape(-1), np.iinfo(table.dtype)
            for _ in range(draw.choice((1, 1, 2, 4))):
                flat[draw.randrange(flat.size)] = min(max(draw.choice(_WHOLE), width.min), width.max)
            return draw.choice((table, table, table, table[:-1], table[::-1], np.concatenate([table, table])))

        def tile() -> int:
            # A valid table of a million rows or keys is a lot of small tiles.
            small = max(sizes, default=0) < 2**15
            return draw.choice((1, 4, 64)) if small and draw.random() < 0.9 else draw.choice((0, -1, 2**18, 2**40))

        kind = draw.randrange(4)
        if kind == 0:
            sizes = (layout.batch_size, layout.queries, 4, 2, 8)
            host.executed_pairs(changed(schedule.tiles), changed(schedule.order), *map(number, sizes))
            return
        table = changed(segments)
        keys, far = ([min(number(n), 2**22) for _ in range(layout.batch_size)] for n in (layout.keys, 50))
        sizes = (*table[:, 2].tolist(), *table[:, 5].tolist(), *keys, *far)
        if kind == 1:
            tiles, order = host.query_tiles(table, tile(), tile())
            assert sorted(order) == list(range(len(tiles)))
        elif kind == 2:
            blocks, _, order = host.kv_blocks(table, keys, far, tile(), tile(), number(4096))
            assert sorted(order) == list(range(len(blocks)))
        elif sum(table[:, 2].tolist()) < 2**22:
            assert len(host.row_bounds(table)) == sum(table[:, 2].tolist())

    return take


def calls(folder: Path) -> Take:
    """Low-level CPU calls, forward and backward, with other numbers, shapes, dtypes, strides and tables: no crash. What they
    raise is torch's."""
    from longreel.schemas import overload

    held = [(overload(name, "cpu"), args) for name, args in _low_level()]

    def take(draw: random.Random) -> None:
        op, args = draw.choice(held)
        changed = [value.clone() if isinstance(value, torch.Tensor) else value for value in args]
        try:
            for _ in range(draw.choice((1, 1, 2))):
                at = draw.randrange(len(changed))
                changed[at] = _other(changed[at], draw)
            op(*changed)
        except (RuntimeError, TypeError, IndexError, NotImplementedError, MemoryError) as error:
            # Also that there is no room for what a caller asks for.
            raise ValueError(str(error)[:100].split("\n")[0]) from None

    return take


def _low_level() -> list[tuple[str, list[Any]]]:
    """Names and arguments of every op that a CPU kernel computes, and of its backward."""
    from longreel.ops.registry import OPS
    from longreel.schemas import SCHEMAS, outputs, overload, parsed
    from longreel.testing.cases import corners

    found = list[tuple[str, list[Any]]]()
    for name, op in OPS.items():
        if not any(row.backend == "cpu" for row in op.rows):
            continue
        for case in [each for each in corners(name).cases() if each.fast][:3]:
            inputs = {
                key: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
                for key, value in case.inputs().items()
            }
            args = op.lower(**inputs)
            found.append((name, list(args)))
            if f"{name}_backward" not in SCHEMAS:
                continue
            made = overload(name, "cpu")(*args)
            known = args._asdict() | dict(zip(outputs(name), made if isinstance(made, tuple) else (made,), strict=True))
            known |= {f"grad_{key}": torch.ones_like(known[key]) for key in outputs(name)}
            known |= {"tokens": next(iter(args)).shape[1], "heads": 2, "kv_heads": 1}
            backward = parsed(f"{name}_backward").arguments
            found.append((f"{name}_backward", [known.get(each.name, 1) for each in backward]))
    return found


_WHOLE = (0, 1, -1, 2, 3, 7, 64, 1000, 2**15, 2**20, 2**31 - 1, 2**31, 2**32, 2**61, 2**62, 2**63 - 1, -(2**63))


def _other(value: Any, draw: random.Random) -> Any:
    if isinstance(value, float):
        return draw.choice((0.0, -1.0, 1e300, float("nan"), float("inf")))
    if isinstance(value, int):
        return draw.choice((*_WHOLE, value + 1, value - 1))
    if not isinstance(value, torch.Tensor):
        return draw.choice((None, torch.ones(2, 3), torch.zeros(0)))
    if not value.is_floating_point() and value.numel() and draw.random() < 0.7:
        flat = value.reshape(-1).clone()
        for _ in range(draw.choice((1, 1, 4))):
            number = draw.choice((0, 1, -1, 7, 2**20, 2**31 - 1, -(2**31), int(flat[0]) + 1))
            flat[draw.randrange(len(flat))] = number if flat.dtype is not torch.bool else number % 2
        return flat.reshape(value.shape)
    if not value.dim():
        return value[None]
    at = draw.randrange(value.dim())
    return draw.choice((
        lambda: None, lambda: value.double(), lambda: value.half(), lambda: value.to(torch.int32), lambda: value[None],
        lambda: value.narrow(at, 0, 0), lambda: value.narrow(at, 0, max(0, value.shape[at] - 1)), lambda: value.flip(at),
        lambda: torch.cat([value, value], at), lambda: value.transpose(0, at), lambda: value.flatten(),
        lambda: value.narrow(at, 0, min(1, value.shape[at])).expand(value.shape) if value.shape[at] else value,
        lambda: value.to_sparse(), lambda: value * float("nan") if value.is_floating_point() else value,
    ))()  # fmt: skip


TARGETS: dict[str, Callable[[Path], Take]] = {
    "features": features, "caches": caches, "memories": memories, "checkpoints": checkpoints, "layouts": layouts,
    "tables": tables, "calls": calls, "results": results,
}  # fmt: skip
# Of one line; all else is a fault.
ALLOWED = (ValueError, MemoryError, OSError)
