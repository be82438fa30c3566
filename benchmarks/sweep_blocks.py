"""Models whose picture tokens attend to one another: masks, logits and gradients with longreel and without, by
`longreel.parity`.

    python benchmarks/sweep_blocks.py [--write docs/existing_vlms.md]

The models are those of tests/integrations/tiny_block_vlms.py, with padding on the left. --write puts a table into the page,
before that of `sweep_towers.py`.
"""

import argparse
import sys
import warnings
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integrations"))
from sweep_models import REFUSED, RIGHT, WRONG, Found, line
from sweep_towers import HEADING as BEHIND
from tiny_block_vlms import MODELS, padded
from tiny_vlms import made

from longreel.files.output import write_text
from longreel.parity.patched import compare

HEADING = "## Picture tokens that attend to one another"


def judge(name: str) -> Found:
    model, given = made(MODELS[name])
    given, _ = padded(given)
    shown = f"{type(model).__name__}, {name}"
    try:
        report = compare(model, given | {"labels": given["input_ids"]})
    except ValueError as error:
        return Found(shown, REFUSED, line(error))
    if not report.right:
        wrong = next(line for line in report.lines if not line.right)
        return Found(shown, WRONG, f"{wrong.what} is {wrong.apart:.1e} apart")
    masks = sum(line.what.startswith("mask") for line in report.lines)
    logits = next(line.apart for line in report.lines if line.what == "logits")
    return Found(
        shown,
        RIGHT,
        f"{masks} masks pair by pair, logits within {logits:.0e}, {len(report.lines) - masks - 1} gradients",
    )


def written(found: list[Found], page: str) -> str:
    own = [
        HEADING,
        "",
        "Made by `python benchmarks/sweep_blocks.py --write docs/existing_vlms.md` with transformers",
        f'{transformers.__version__} under `attn_implementation={{"text_config": "longreel"}}`: token types that make the mask',
        "bidirectional, a batch padded on the left, in fp32. `python -m longreel.parity MODULE:FUNCTION` does the same for",
        "a model of yours. Softcap (Gemma 2, and so PaliGemma 2) is refused.",
        "",
        "| class and form | verdict | what was compared |",
        "| --- | --- | --- |",
        *(f"| `{each.name}` | {each.verdict} | {each.note.replace('|', '/')[:230]} |" for each in found),
    ]
    before, _, rest = page.partition(BEHIND)
    before = before.split(HEADING)[0].rstrip("\n")
    return before + "\n\n" + "\n".join(own) + "\n" + (f"\n{BEHIND}{rest}" if rest else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    found = [judge(name) for name in MODELS]
    for each in found:
        print(*each, sep="\t", flush=True)
    if options.write:
        write_text(options.write, written(found, options.write.read_text()))
    return int(any(each.verdict == WRONG for each in found))


if __name__ == "__main__":
    sys.exit(main())
