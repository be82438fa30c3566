"""Video-XL's bookkeeping: windows, VST rows, positions and what the memory holds, all from layouts."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longreel.layout import Segment, VideoLayout, kinds, positions, slots
from longreel.layout.segments import VISION, VST, chunk_of
from longreel.parity.golden.files import GoldenCase

# What the files call kinds and steps.
RAW_TEXT, RAW_VISUAL, SUMMARY = range(3)
STEPS = ("prefix", "visual", "text", "decoded")
Step = tuple[int, int, Segment | None]


def replay(case: GoldenCase, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every quantity of the file, once per run; the ratios of later runs go on where the generator stands."""
    params = case.params
    generator = np.random.default_rng(42)
    mix = params["ratios"] if len(params["ratios"]) > 1 else None
    results: dict[str, Tensor] = {}
    for run in range(params["runs"]):
        layout = VideoLayout.vst(
            visual=params["n_visual"], chunk=params["window"], ratio=None if mix else params["ratios"][0], ratio_mix=mix,
            seed=generator, prefix=params["prefix"], text=params["text"] + params["decode"],
        )  # fmt: skip
        suffix = f".{run}" if params["runs"] > 1 else ""
        tables = {**_rows(layout), **_steps(layout, params["window"], params["decode"])}
        results |= {name + suffix: torch.from_numpy(np.ascontiguousarray(table)) for name, table in tables.items()}
    return results


def _rows(layout: VideoLayout) -> dict[str, NDArray[np.int32]]:
    own = kinds(layout)[0]
    vst, slot = own == VST, slots(layout)[0]
    kind = np.where(vst, SUMMARY, np.where(own == VISION, RAW_VISUAL, RAW_TEXT)).astype(np.uint8)
    index = np.where(vst, np.cumsum(vst) - 1, np.cumsum(~vst) - 1).astype(np.int32)
    in_memory = np.argsort(slot, kind="stable")[-(slot >= 0).sum() :]
    return {
        "kinds": kind,
        "index": index,
        "positions": positions(layout)[0],
        "kept": (slot >= 0).astype(np.uint8),
        "memory_kind": kind[in_memory],
        "memory_index": index[in_memory],
    }


def _steps(layout: VideoLayout, window: int, decode: int) -> dict[str, NDArray[np.int32]]:
    """Rows are fed as: the prefix, each chunk, the text in windows, decoded tokens one by one."""
    steps: list[Step] = []
    for segment in layout.samples[0][0].segments:
        if segment.kind == "text":
            text = segment.length - decode
            steps += [(STEPS.index("text"), min(window, text - at), None) for at in range(0, text, window)]
            steps += [(STEPS.index("decoded"), 1, None)] * decode
        else:
            steps.append((STEPS.index("visual" if segment.kind == "vst" else "prefix"), segment.length, segment))
    chunks = [chunk_of(s) if s is not None and s.kind == "vst" else None for _, _, s in steps]
    # [steps, 3], prefix, VST and text rows that a step adds to the memory
    added = np.array(
        [
            (rows if kind == 0 else 0, chunk.vst if chunk else 0, rows if kind >= 2 else 0)
            for (kind, rows, _), chunk in zip(steps, chunks, strict=True)
        ],
        np.int32,
    )
    after = np.cumsum(added, axis=0, dtype=np.int32)
    # A remainder stays until the next chunk.
    left = [0]
    for chunk in chunks:
        left.append(chunk.carry_out if chunk else left[-1])
    columns = {
        "step_rows": [rows for _, rows, _ in steps],
        "step_vst": [chunk.vst if chunk else 0 for chunk in chunks],
        "step_ratio": [s.ratio if chunk and s else -1 for (_, _, s), chunk in zip(steps, chunks, strict=True)],
        "remainder_in": left[:-1],
        "remainder_out": left[1:],
    }
    return {
        "step_type": np.array([kind for kind, _, _ in steps], np.uint8),
        **{name: np.array(column, np.int32) for name, column in columns.items()},
        "memory_before": after - added,
        "memory_after": after,
    }
