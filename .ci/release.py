"""Tags a release: `python .ci/release.py 0.1.0 [--dry-run]`, on a clean main whose tests have passed (.ci/run).

The version must be that of pyproject.toml and CITATION.cff, and CHANGELOG.md's first section must be its own, with a date. `make
wheel` then builds what is published; nothing is pushed.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def objections(version: str, root: Path = ROOT) -> list[str]:
    """What the files say against it."""
    found = []
    if not re.fullmatch(r"\d+\.\d+\.\d+(?:rc\d+)?", version):
        found.append(f"{version} is no version such as 0.1.0 or 0.1.0rc1")
    for name, pattern in (("pyproject.toml", r'^version = "(.*)"$'), ("CITATION.cff", r"^version: (.*)$")):
        there = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        if there is None or there[1] != version:
            found.append(f"{name} says {there[1] if there else 'no version'}")
    first = re.search(r"^## (.*)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if first is None or not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", first[1]):
        found.append(f"CHANGELOG.md begins with {first[1] if first else 'nothing'}, not with {version} and a date")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    parser.add_argument("--dry-run", action="store_true", help="say what stands against it, tag nothing")
    options = parser.parse_args()
    found = objections(options.version)
    if git("status", "--porcelain"):
        found.append("the work tree is not clean")
    if f"v{options.version}" in git("tag").split():
        found.append(f"v{options.version} is tagged")
    if found:
        print("\n".join(found), file=sys.stderr)
        return 1
    if not options.dry_run:
        git("tag", "-a", f"v{options.version}", "-m", f"longreel {options.version}")
    print(
        f"v{options.version}: {'may be tagged' if options.dry_run else 'tagged'}; make wheel builds what is published"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
