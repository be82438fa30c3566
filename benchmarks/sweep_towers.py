"""Every packed vision tower of the installed transformers, tiny, with random weights: features under longreel_flash and eager.

    python benchmarks/sweep_towers.py [--write docs/existing_vlms.md]

A tower is packed where its attention hands cu_seq_lens_q on. Verdicts are those of `sweep_models.py`; --write puts the table into
the page, behind the one that `sweep_models.py` makes.
"""

import argparse
import importlib
import inspect
import pkgutil
import sys
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from sweep_models import INSIDE, REFUSED, RIGHT, UNBUILT, UNUSED, WRONG, Found, is_line, line
from tiny_models import widened
from torch import Tensor, nn

import longreel  # noqa: F401
from longreel.files.output import write_text
from longreel.integrations import towers

FLASH = "longreel_flash"
CLOSE = 1e-4
HEADING = "## Vision towers: `longreel_flash`"
SIZES: dict[str, Any] = {
    "depth": 2, "num_hidden_layers": 2, "num_layers": 2, "hidden_size": 32, "embed_dim": 32, "intermediate_size": 48,
    "num_heads": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "out_hidden_size": 32, "mlp_ratio": 2, "patch_size": 2,
    "spatial_merge_size": 2, "temporal_patch_size": 1, "image_size": 8, "window_size": 8, "fullatt_block_indexes": [1],
    "deepstack_visual_indexes": [0], "num_position_embeddings": 16, "in_channels": 3, "num_channels": 3, "head_dim": 8,
    "text_hidden_size": 32, "merge_kernel_size": [2, 2], "init_pos_emb_height": 4, "init_pos_emb_width": 4, "dropout": 0.0,
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "d_model": 32, "in_chans": 3, "max_position_embeddings": 64,
}  # fmt: skip


def packed() -> list[type]:
    """Model classes of modules whose attention is given packed lengths, with a vision configuration of their own."""
    found: dict[str, type] = {}
    folder = Path(transformers.__file__).parent / "models"
    for info in pkgutil.iter_modules([str(folder)]):
        file = folder / info.name / f"modeling_{info.name}.py"
        if not file.exists() or "cu_seq_lens_q=" not in file.read_text():
            continue
        module = importlib.import_module(f"transformers.models.{info.name}.modeling_{info.name}")
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if (
                not own
                or not issubclass(value, transformers.PreTrainedModel)
                or "Vision" not in name
                or "PreTrainedModel" in name
            ):
                continue
            config = getattr(value, "config_class", None) or getattr(value, "config", None)
            if config is not None and "forward" in vars(value):
                found[name] = value
    return [found[name] for name in sorted(found)]


def config_of(model_class: type) -> Any:
    config_class: Any = getattr(model_class, "config_class", None) or model_class.config  # type: ignore[attr-defined]
    held = config_class().to_dict()
    return config_class(**{key: value for key, value in SIZES.items() if held.get(key) is not None})


# Patches as rows, with two pictures in time, in a strip, as small pictures, those in one sample; whole pictures.
SHAPES = ((64, 12), (64, 24), (1, 3, 2, 128), (64, 3, 2, 2), (1, 64, 3, 2, 2), (3, 3, 8, 8))


def inputs_of(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Three pictures of 4 x 4, 8 x 4 and 4 x 4 patches, by the names that towers have for them."""
    grid = torch.tensor([[1, 4, 4], [1, 8, 4], [1, 4, 4]])
    patches = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    names = list(inspect.signature(model.forward).parameters)
    made: dict[str, Any] = {}
    for name in names:
        if name in ("hidden_states", "pixel_values", "patches"):
            made[name] = patches
        elif name in ("grid_thw", "image_grid_thw"):
            made[name] = grid
        elif name in ("grid_hws", "grid_hw", "image_grid_hws", "target_sizes"):
            made[name] = grid[:, 1:]
        elif name == "merge_sizes":
            made[name] = torch.full((3,), 2)
        elif name == "image_sizes":
            made[name] = torch.full((3, 2), 8)
        elif name == "cu_seqlens":
            made[name] = torch.tensor([0, 16, 48, 64], dtype=torch.int32)
    return made


def features(out: Any) -> list[Tensor]:
    values = out.to_tuple() if hasattr(out, "to_tuple") else out if isinstance(out, (tuple, list)) else (out,)
    flat: list[Tensor] = []
    for value in values:
        flat += features(value) if isinstance(value, (tuple, list)) else [value] if isinstance(value, Tensor) else []
    return flat


def differs(expected: list[Tensor], got: list[Tensor]) -> str:
    """What is wrong with the features, or nothing."""
    shapes = [[list(t.shape) for t in side] for side in (expected, got)]
    if shapes[0] != shapes[1]:
        return f"features of shapes {shapes[1]} for {shapes[0]}"
    if not any(t.numel() for t in expected):
        return "there are no features to compare"
    off = torch.stack(
        [
            (a - b).abs().max() / max(1.0, a.abs().max().item() / 10)
            for a, b in zip(expected, got, strict=True)
            if a.numel()
        ]
    )
    # NaN is no number below the bar
    return "" if (off <= CLOSE).all() else f"features off by {off.max().item():.1e}"


@torch.no_grad()
def judge(model_class: Any) -> Found:
    name = model_class.__name__
    try:
        config = config_of(model_class)
        eager = widened(model_class._from_config(config, attn_implementation="eager").float()).eval()
    except Exception as error:
        return Found(name, UNBUILT, line(error))
    for shape in SHAPES:
        given = inputs_of(eager, shape)
        try:
            expected = features(eager(**given))
            break
        except Exception as error:
            failed = line(error)
    else:
        return Found(name, UNBUILT, failed)
    calls = []
    real = towers.block_sparse_attention
    towers.block_sparse_attention = lambda *a, **k: calls.append(a) or real(*a, **k)  # type: ignore[assignment]
    try:
        ours = deepcopy(eager)
        ours.set_attn_implementation(FLASH)
        got = features(ours(**given))
    except Exception as error:
        return Found(name, REFUSED if is_line(error) else INSIDE, line(error))
    finally:
        towers.block_sparse_attention = real
    if not calls:
        return Found(name, UNUSED, "no layer asks for an attention by this name")
    wrong = differs(expected, got)
    if wrong:
        return Found(name, WRONG, wrong)
    return Found(name, RIGHT, f"{len(calls)} calls for 3 pictures")


def written(verdicts: list[Found], page: str) -> str:
    rows = [f"| `{v.name}` | {v.verdict} | {v.note.replace('|', '/')[:230]} |" for v in sorted(verdicts)]
    own = [
        HEADING,
        "",
        "Made by `python benchmarks/sweep_towers.py --write docs/existing_vlms.md` with transformers",
        f"{transformers.__version__}: every vision tower with packed lengths, three pictures of two sizes. *right*: features",
        'within 1e-4 of eager attention\'s. The name is reached by `attn_implementation={"vision_config": ...}` when a model is',
        "loaded or made, and by `set_attn_implementation` on a live model or on the tower alone. Text given it is refused.",
        "",
        "| class | verdict | note |",
        "| --- | --- | --- |",
        *rows,
    ]
    return page.split(HEADING)[0].rstrip("\n") + "\n\n" + "\n".join(own) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    verdicts = []
    for model_class in packed():
        verdicts.append(judge(model_class))
        print(*verdicts[-1], sep="\t", flush=True)
    if options.write:
        write_text(options.write, written(verdicts, options.write.read_text()))
    return int(any(verdict.verdict in (WRONG, INSIDE) for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
