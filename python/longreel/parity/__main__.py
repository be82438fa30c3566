"""``python -m longreel.parity MODULE:FUNCTION``: whether a model computes the same with longreel's attention as without.

FUNCTION() gives (model, inputs): a small transformers model and the keywords of its forward, labels among them where gradients
are to be compared. Exit code 0: all equal; 1: something differs; 2: the model refuses longreel's attention, nothing could be
compared, or there is no such function.
"""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    from longreel.parity.folder import function_of, pair_of
    from longreel.parity.patched import CLOSE, compare

    parser = argparse.ArgumentParser(
        prog="python -m longreel.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("made_by", metavar="MODULE:FUNCTION")
    parser.add_argument("--close", type=float, default=CLOSE, help="largest difference of logits and gradients")
    given = parser.parse_args(arguments)
    try:
        model, inputs = pair_of(given.made_by, function_of(given.made_by))
    except ValueError as error:
        parser.error(str(error))
    try:
        report = compare(model, inputs, close=given.close)
    except ValueError as error:
        print(f"refused: {error}")
        return 2
    print(report.table())
    return int(not report.right)


if __name__ == "__main__":
    sys.exit(main())
