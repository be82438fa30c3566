"""q, k and v under a layout: what the cases of the attention ops are made of."""

from collections.abc import Callable
from typing import Any

from torch import Generator

from longreel.layout import PlannedLayout, VideoLayout, global_index
from longreel.testing.cases.case import Case, Inputs, normal


def layout_case(
    name: str,
    layout: Callable[[int], VideoLayout | PlannedLayout],
    *,
    batch: int = 2,
    heads: tuple[int, int] = (4, 2),
    width: int = 16,
    beyond: int = 0,
    sharp: float = 1.0,
    own_globals: bool = False,
    frames: int = 3,
    fast: bool = False,
    **options: Any,
) -> Case:
    """A case of q, k, v under `layout(frames)`. `beyond`: keys after those of the layout; `own_globals`: global_k and
    global_v are given; `heads`: (H, Hkv). Scores reach about 4 * `sharp`."""

    def make(generator: Generator, frames: int) -> Inputs:
        made = layout(frames)
        whole = made.layout if isinstance(made, PlannedLayout) else made
        inputs: Inputs = {"q": sharp * normal(generator, batch, whole.queries, heads[0], width)}
        for key in ("k", "v"):
            inputs[key] = normal(generator, batch, whole.keys + beyond, heads[1], width)
        if own_globals:
            places = global_index(whole).shape[1]
            inputs |= {key: normal(generator, batch, places, heads[1], width) for key in ("global_k", "global_v")}
        return inputs | {"layout": made, **options}

    return Case(name, make, frames, fast)


def one_key_head(inputs: Inputs) -> Inputs:
    """The first key head, and the query heads that share it."""
    group = inputs["q"].shape[2] // inputs["k"].shape[2]
    heads = {"q": group} | dict.fromkeys(("k", "v", "global_k", "global_v"), 1)
    return inputs | {name: inputs[name][:, :, :count] for name, count in heads.items() if name in inputs}
