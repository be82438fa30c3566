"""What stands between tower and text in every picture-and-text class of the installed transformers, and whether an op of ours
could take its place: read from the source of its modules, nothing is run.

    python benchmarks/sweep_connectors.py [--write docs/existing_vlms.md]

--write puts the table behind that of `sweep_towers.py`.
"""

import argparse
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import transformers
from sweep_models import Found
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

from longreel.files.output import write_text

HEADING = "## Between tower and text"
NAMES = re.compile(
    "Projector|Merger|Connector|Aligner|Resampler|Perceiver|QFormer|Pool|Adapter|Shuffle|Downsample|Abstractor"
)
# Parts of these.
PARTS = re.compile(
    "PreTrained|Layer|Attention|Output|Intermediate|Embeddings|Encoder|MLP|Mlp|Block|Norm|Rotary|Head|VQVAE|Tokenizer|Audio"
    "|SaProt|Statistics"
)
# A method of a model, as LLaVA-OneVision has one.
METHOD = re.compile(r"def (\w*pooling\w*)\(")
POOLS = "averages patches", "`adaptive_pool`"
# (in its name or its source, what it is, whether it can gain), the first that fits.
KINDS = (
    (r"QFormer", "queries that attend to patches", "`nn.QFormer`, `qformer_attention`"),
    (r"(?i)adaptive_?avg_?pool|avg_?pool|interpolate\(|one_hot|\.mean\(", *POOLS),
    (r"Attention\(|attention_interface", "attention of its own", "where it asks for one by name"),
    (r"Linear\(|Conv|\.weight|view\(|reshape\(", "a reshape and matrix products", "cannot: they are PyTorch's"),
    (r"(?i)perceiver", "queries that attend to patches", "where it asks for one by name"),
)


def connectors(name: str) -> list[type]:
    """Modules of the class's own file that lead from pictures to text."""
    module = importlib.import_module(getattr(transformers, name).__module__)
    return [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == module.__name__
        and "forward" in vars(value)
        and NAMES.search(key)
        and not PARTS.search(key)
    ]


def judge(connector: type) -> tuple[str, str]:
    source = connector.__name__ + inspect.getsource(connector)
    return next((kind[1:] for kind in KINDS if re.search(kind[0], source)), ("something else", "not known"))


def found() -> list[Found]:
    rows = []
    for name in sorted(set(CLASSES.values())):
        if not hasattr(transformers, name):
            continue
        own: list[Any] = connectors(name)
        rows += [Found(name, connector.__name__, *judge(connector)) for connector in own]
        methods = METHOD.findall(inspect.getsource(sys.modules[getattr(transformers, name).__module__]))
        rows += [Found(name, method, *POOLS) for method in dict.fromkeys(methods)]
        if not own and not methods:
            rows.append(Found(name, "", "none of such a name in its file", "not known"))
    return rows


def written(rows: list[Found], page: str) -> str:
    own = [
        HEADING,
        "",
        "Made by `python benchmarks/sweep_connectors.py --write docs/existing_vlms.md` with transformers",
        f"{transformers.__version__}, by names and words of the sources: modules that lead from pictures to text, and the op",
        "that could take their place. Pixel shuffles, mergers and other MLPs cannot gain: a reshape and matrix products.",
        "",
        "| class | module | what it is | what could gain |",
        "| --- | --- | --- | --- |",
        *(f"| `{row.name}` | {f'`{row.verdict}`' if row.verdict else ''} | {row.note} | {row.rows} |" for row in rows),
    ]
    return page.split(HEADING)[0].rstrip("\n") + "\n\n" + "\n".join(own) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    rows = found()
    for row in rows:
        print(*row, sep="\t")
    if options.write:
        write_text(options.write, written(rows, options.write.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
