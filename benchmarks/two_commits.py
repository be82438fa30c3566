"""Two commits measured in turns on this machine, then compared: `longreel bench` in a checkout of each, again and again.

    python benchmarks/two_commits.py main~5 main --rounds 3 -- --op compress_frames --dtype bf16 --peer strong

Each commit is checked out into a folder of its own and built there (`--build`, default `make build`) with its own environment;
what stands after `--` goes to `longreel bench`. Ratios are over the peer of the same run, so that what moves both moves neither.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from longreel.report.compared import compared, comparison_text

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit")
    parser.add_argument("after", help="another")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--build", default="make build", help="what makes .venv/bin/longreel in a checkout")
    parser.add_argument("--folder", type=Path, help="where checkouts and results stay; default one that is removed")
    given, options = sys.argv[1:], []
    if "--" in given:
        given, options = given[: given.index("--")], given[given.index("--") + 1 :]
    args = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as made:
        folder = (args.folder or Path(made)).resolve()
        trees = [_checkout(commit, folder / name, args.build) for name, commit in vars(args).items() if name in _NAMES]
        results = [folder / f"{name}.jsonl" for name in _NAMES]
        try:
            for turn in range(args.rounds):
                order = list(zip(trees, results, strict=True))
                for tree, path in reversed(order) if turn % 2 else order:
                    command = [tree / ".venv/bin/longreel", "bench", *options, "--json", path]
                    subprocess.run(command, cwd=tree, check=True)
        finally:
            if args.folder is None:
                for tree in trees:
                    subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
        found = compared(*results)
        print(comparison_text(found))
        return int(found.worse)


_NAMES = ("before", "after")


def _checkout(commit: str, tree: Path, build: str) -> Path:
    """The commit in a folder of its own, built; one that is there already is taken as it is."""
    if not tree.exists():
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", tree, commit], check=True)
        subprocess.run(build, shell=True, cwd=tree, check=True)
    return tree


if __name__ == "__main__":
    sys.exit(main())
