"""Every causal model class of the installed transformers, tiny, with random weights: right under longreel, or refused in a line?

    python benchmarks/sweep_models.py [NAME ...] [--write docs/existing_vlms.md]

Right is what eager attention gives with the same weights in fp32: logits within 1e-4 without a mask, with padding on the left,
in a batch of two lengths, under ``VideoLayout.causal(n)`` (the same as no layout), and the same tokens from ``generate``, with
and without it. Where eager itself cannot run, nothing is judged. Ends with 1 where a class is silently wrong or fails from the
inside. Classes that are named replace their lines of the page alone.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tiny_models import LAYERS, build, classes
from torch import Tensor

import longreel
import longreel.integrations.transformers as integration
from longreel import VideoLayout
from longreel.files.output import write_text

ROWS, TOKENS, CLOSE = 13, 6, 1e-4
RIGHT, REFUSED, UNUSED, WRONG, INSIDE, UNBUILT = (
    "right",
    "refused",
    "no attention of ours",
    "WRONG",
    "FAILS",
    "not built",
)


# What rows of a layer attend to, by what it is worth.
KINDS = ("blocks", "windows", "chunks", "causal", "latent heads", "none")


class Found(NamedTuple):
    name: str
    verdict: str
    note: str
    rows: str = ""


class Calls:
    """How often the attention interface was reached, and what its layers attend to."""

    def __init__(self) -> None:
        self.count = 0
        # by layer
        self.kinds: dict[int, str] = {}

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *args: Any, **kwargs: Any
    ) -> Any:
        self.count += 1
        rule = None if attention_mask is None else attention_mask.rule
        said = {} if rule is None else {"blocks": rule.function, "windows": rule.window, "chunks": rule.chunk}
        kind = next((name for name, given in said.items() if given is not None), "causal")
        self.kinds[id(module)] = "latent heads" if value.shape[3] < query.shape[3] else kind
        return integration.attention(module, query, key, value, attention_mask, *args, **kwargs)

    def rows(self, config: Any) -> str:
        """Kinds of rows that there are; and "none" where layers have no attention that asks for ours."""
        text = config.get_text_config(decoder=True)
        layers = next((getattr(text, name) for name in LAYERS if isinstance(getattr(text, name, None), int)), 0)
        kinds = set(self.kinds.values()) | ({"none"} if len(self.kinds) < layers else set())
        return ", ".join(kind for kind in KINDS if kind in kinds)


def inputs() -> Iterator[tuple[str, dict[str, Tensor], Tensor]]:
    """(name, keywords, rows that are judged)."""
    ids = torch.randint(3, 100, (2, ROWS), generator=torch.Generator().manual_seed(1))
    whole = torch.ones_like(ids)
    yield "no mask", {"input_ids": ids}, whole.bool()
    for side, padded in (("left", slice(0, 5)), ("two lengths", slice(ROWS - 4, ROWS))):
        mask = whole.clone()
        mask[1, padded] = 0
        yield side, {"input_ids": ids, "attention_mask": mask}, mask.bool()


def logits(model: Any, given: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        out = model(**given)
    return out.logits if hasattr(out, "logits") else out[0]


def tokens(model: Any, ids: Tensor, mask: Tensor | None = None, **more: Any) -> Tensor:
    given = {
        "attention_mask": torch.ones_like(ids) if mask is None else mask,
        "max_new_tokens": TOKENS,
        "do_sample": False,
    }
    torch.manual_seed(0)
    return model.generate(ids, **given | more)


def judge(name: str, key: str | None = None) -> Found:
    """key: of the text inside the configuration, where the class is more than text."""
    try:
        eager = build(name, "eager")
        first = next(inputs())
        if not torch.isfinite(logits(eager, first[1])).all():
            return Found(name, UNBUILT, "its tiny form gives no finite numbers")
    except Exception as error:
        return Found(name, UNBUILT, line(error))
    calls = Calls()
    integration.AttentionInterface.register(integration.NAME, calls)
    try:
        ours = build(name, integration.NAME if key is None else {key: integration.NAME})
        done, unjudged = [], []
        for what, run in checks(eager, ours):
            try:
                expected = run(eager, None)
            except Exception:
                unjudged.append(what)
                continue
            wrong = compare(what, expected, run(ours, what))
            if wrong:
                return Found(name, WRONG if calls.count else UNUSED, wrong)
            done.append(what)
    except Exception as error:
        return Found(name, REFUSED if is_line(error) else INSIDE, line(error), "none")
    finally:
        integration.AttentionInterface.register(integration.NAME, integration.attention)
    if not calls.count:
        return Found(name, UNUSED, "it has no softmax attention, or computes it itself", "none")
    note = f"not judged, as eager fails: {', '.join(unjudged)}" if unjudged else ""
    return Found(name, RIGHT, note, calls.rows(ours.config))


def checks(eager: Any, ours: Any) -> Iterator[tuple[str, Callable[[Any, str | None], tuple[Tensor, Tensor | None]]]]:
    layout = VideoLayout.causal(ROWS)
    for what, given, rows in inputs():
        yield what, lambda model, _, given=given, rows=rows: (logits(model, given), rows)
    _, given, rows = next(inputs())
    ids = given["input_ids"]

    def under(run: Callable[[Any], Tensor]) -> Callable[[Any, str | None], tuple[Tensor, Tensor | None]]:
        def both(model: Any, what: str | None) -> tuple[Tensor, Tensor | None]:
            with longreel.use_layout(layout if what else None):
                return run(model), None

        return both

    yield "use_layout", under(lambda model: logits(model, given))
    yield "no cache", lambda model, _: (logits(model, given | {"use_cache": False}), rows)
    yield "generate", lambda model, _: (tokens(model, ids), None)
    padded = {name: given for name, given, _ in inputs()}["left"]["attention_mask"]
    yield "generate, left", lambda model, _: (tokens(model, ids, padded), None)
    yield "generate, static", lambda model, _: (tokens(model, ids, padded, cache_implementation="static"), None)
    yield "generate, use_layout", under(lambda model: tokens(model, ids))


def compare(what: str, expected: tuple[Tensor, Tensor | None], got: tuple[Tensor, Tensor | None]) -> str:
    """What is wrong, or nothing."""
    (a, rows), (b, _) = expected, got
    if a.shape != b.shape:
        return f"{what}: shape {list(b.shape)} for {list(a.shape)}"
    if a.dtype == torch.long:
        return "" if torch.equal(a, b) else f"{what}: other tokens"
    if rows is not None and a.shape[:2] == rows.shape:
        a, b = a[rows], b[rows]
    if not a.numel():
        return f"{what}: there is nothing to compare"
    # Infinite logits allow no error, and NaN is no number below the bar.
    off, size = (a - b).abs().max().item(), a.abs().max().item()
    return "" if off <= CLOSE * max(1.0, size / 10) < math.inf else f"{what}: logits off by {off:.1e}"


def line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def is_line(error: BaseException) -> bool:
    """Whether an error is one of ours: one line, raised by this package."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    ours = last is not None and str(Path(longreel.__file__).parent) in last.tb_frame.f_code.co_filename
    return ours and isinstance(error, (ValueError, longreel.BackendError)) and "\n" not in str(error).strip()


def written(verdicts: list[Found]) -> str:
    """The page of docs: what was run, and a table."""
    counts = ", ".join(
        f"{kind} {sum(v.verdict == kind for v in verdicts)}" for kind in (RIGHT, REFUSED, UNUSED, UNBUILT)
    )
    lines = [
        '# Existing models: what `attn_implementation="longreel"` gives',
        "",
        "```python",
        "import longreel  # makes the name known to transformers, also where that is imported later",
        "",
        'model = AutoModelForCausalLM.from_pretrained(..., attn_implementation="longreel")  # a decoder of text',
        "# Pictures and text: the vision tower keeps its own.",
        'model = AutoModelForImageTextToText.from_pretrained(..., attn_implementation={"text_config": "longreel"})',
        'model.set_attn_implementation("longreel")  # a decoder that is loaded already',
        "```",
        "",
        "What gains is what others need a mask of rows x keys for, or run picture by picture: windows and chunks, batches that",
        "are padded, packed samples, [layouts](voco_llama.md), [picture tokens that attend to one another]"
        "(#picture-tokens-that-attend-to-one-another)",
        "and [vision towers](#vision-towers-longreel_flash). Plain causal rows gain nothing: PyTorch has a kernel for them.",
        "",
        "## Decoders",
        "",
        "Made by `python benchmarks/sweep_models.py --write docs/existing_vlms.md` with transformers",
        f"{transformers.__version__} and torch {torch.__version__.split('+')[0]}: every causal class of transformers,",
        "tiny, with random weights, in fp32 on a CPU.",
        "",
        "| verdict | |",
        "| --- | --- |",
        f"| {RIGHT} | logits within 1e-4 of eager attention's without a mask, with padding on the left, in a batch of two"
        " lengths, with and without a cache, and under `use_layout(VideoLayout.causal(n))`; the same tokens from `generate`,"
        " with a static cache too |",
        f"| {REFUSED} | one line says why, of which the note has the beginning |",
        f"| {UNUSED} | nothing in the model asks for one |",
        f"| {UNBUILT} | no tiny form of it was found: nothing is known |",
        "",
        "| rows: what the layers asked for | |",
        "| --- | --- |",
        "| windows, chunks | ranges of keys, where others make a mask |",
        "| causal | nothing to gain but by padding, packed samples and layouts |",
        "| latent heads | cannot gain: their values are narrower than their keys, and are padded |",
        "| none | cannot gain: layers without softmax attention, with one of their own, or that add to the scores |",
        "",
        f"In numbers: {counts}.",
        "",
        "| class | verdict | rows | note |",
        "| --- | --- | --- | --- |",
    ]
    lines += [row(v) for v in sorted(verdicts)]
    return "\n".join(lines) + "\n"


def row(found: Found, version: str = "") -> str:
    note = f"{shortened(found.note.replace('|', '/'))} {version}".strip()
    return f"| `{found.name}` | {found.verdict} | {found.rows} | {note} |"


def shortened(note: str, size: int = 120) -> str:
    """Whole words of its first statement."""
    first = note.partition(";")[0].partition(", and longreel attention makes none")[0]
    return first if len(first) <= size else f"{first[:size].rpartition(' ')[0]} ..."


def updated(page: str, verdicts: list[Found]) -> str:
    """The page with these classes judged anew, the version of what judged them in their notes."""
    lines = page.splitlines()
    for v in verdicts:
        at = next((i for i, text in enumerate(lines) if text.startswith(f"| `{v.name}` |")), None)
        if at is not None:
            lines[at] = row(v, f"(transformers {transformers.__version__})")
    first = next(i for i, text in enumerate(lines) if text.startswith("| class |"))
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    kinds = [text.split(" | ")[1] for text in lines[first + 2 : last]]
    counts = ", ".join(f"{kind} {kinds.count(kind)}" for kind in (RIGHT, REFUSED, UNUSED, UNBUILT))
    lines = [f"In numbers: {counts}." if text.startswith("In numbers:") else text for text in lines]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    verdicts = []
    for name in options.names or classes():
        if not hasattr(transformers, name):
            continue
        verdicts.append(judge(name))
        print(*verdicts[-1], sep="\t", flush=True)
    for kind in (RIGHT, REFUSED, UNUSED, UNBUILT, WRONG, INSIDE):
        print(f"{kind}: {sum(verdict.verdict == kind for verdict in verdicts)}")
    if options.write:
        page = options.write.read_text() if options.names else ""
        write_text(options.write, updated(page, verdicts) if page else written(verdicts))
    return int(any(verdict.verdict in (WRONG, INSIDE) for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
