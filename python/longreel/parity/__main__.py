"""``python -m longreel.parity MODULE:FUNCTION``: whether a model computes the same with longreel's attention as without.

FUNCTION() gives (model, inputs): a small transformers model and the keywords of its forward, labels among them where gradients
are to be compared. Exit code 0: all equal; 1: something differs; 2: the model refuses longreel's attention, nothing could be
compared, or there is no such function.
"""

import argparse
import importlib
import sys

from longreel.files.foreign import first_line


def main(arguments: list[str] | None = None) -> int:
    from longreel.parity.patched import CLOSE, compare

    parser = argparse.ArgumentParser(
        prog="python -m longreel.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("made_by", metavar="MODULE:FUNCTION")
    parser.add_argument("--close", type=float, default=CLOSE, help="largest difference of logits and gradients")
    given = parser.parse_args(arguments)
    module, _, function = given.made_by.partition(":")
    if not function:
        parser.error(f"{given.made_by!r} is not MODULE:FUNCTION")
    sys.path.insert(0, "")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        parser.error(f"{given.made_by!r}: {first_line(error)}")
    if not callable(make):
        parser.error(f"{given.made_by!r} is a {type(make).__name__}, not a function")
    made = make()
    if not (isinstance(made, tuple) and len(made) == 2):
        parser.error(f"{given.made_by!r} gave a {type(made).__name__}; allowed: a pair (model, inputs)")
    model, inputs = made
    try:
        report = compare(model, inputs, close=given.close)
    except ValueError as error:
        print(f"refused: {error}")
        return 2
    print(report.table())
    return int(not report.right)


if __name__ == "__main__":
    sys.exit(main())
