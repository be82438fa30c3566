"""Two files of benchmark results beside each other: which ratios moved, by how much, and which are too noisy to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longreel.bench.report import STEADY
from longreel.bench.tables import text_table
from longreel.report.result_lines import DTYPES, Line, read_lines
from longreel.report.result_pairs import Pair, every_pair, newest, noisy

# What became of a ratio, as it is shown.
WORSE, BETTER, SAME, NOISY = "worse", "better", "same", "noisy"


@dataclass(frozen=True)
class Moved:
    """One ratio of ours over a peer in both files."""

    before: Pair
    after: Pair

    @property
    def change(self) -> float:
        """0.1 where the second is a tenth larger."""
        return _ratio(self.after) / _ratio(self.before) - 1

    @property
    def verdict(self) -> str:
        """Noisy where either run was: rounds that scatter, halves that disagree, or other processes beside it; and where the
        machine was another one in the second, by what plain PyTorch reached between the rounds."""
        if noisy(self.before) or noisy(self.after) or self.machine_moved:
            return NOISY
        return SAME if abs(self.change) <= STEADY else BETTER if self.change > 0 else WORSE

    @property
    def machine_moved(self) -> bool:
        """Whether its bandwidth or its rate of products differ by more than a ratio may."""
        roofs = [pair.ours.get("roof") or {} for pair in (self.before, self.after)]
        rates = [[roof[name] for roof in roofs if roof.get(name)] for name in ("bandwidth", "matrix")]
        return any(max(both) > (1 + STEADY) * min(both) for both in rates if len(both) == 2)


@dataclass(frozen=True)
class MovedRatios:
    """The ratios that both files have, those that moved most first, and how many stand in one alone."""

    moved: tuple[Moved, ...]
    only_before: int
    only_after: int
    machines: tuple[str, str]

    @property
    def worse(self) -> bool:
        """Whether a ratio that is not noisy fell by more than 10 %."""
        return any(one.verdict == WORSE for one in self.moved)


def compared(before: Path, after: Path) -> MovedRatios:
    """Of both files the newest run of every case.

    Raises:
        ValueError: a file that holds no such results, or no case that both have.
    """
    lines = [read_lines(path) for path in (before, after)]
    first, second = ({pair.case: pair for pair in newest(every_pair(found)) if pair.ratio} for found in lines)
    both = [Moved(first[case], second[case]) for case in first if case in second]
    if not both:
        raise ValueError(f"{before} and {after} have no ratio in common")
    order = (WORSE, BETTER, NOISY, SAME)
    moved = sorted(both, key=lambda one: (order.index(one.verdict), -abs(one.change)))
    return MovedRatios(
        tuple(moved),
        len(first.keys() - second.keys()),
        len(second.keys() - first.keys()),
        (_machine(lines[0]), _machine(lines[1])),
    )


def comparison_text(found: MovedRatios) -> str:
    """A table, a line for each ratio, and what it means below."""
    head = ["op", "pass", "dtype", "ours over", "before", "after", "change", ""]
    text = text_table(head, [_cells(one) for one in found.moved])
    counts = ", ".join(
        f"{sum(one.verdict == said for one in found.moved)} {said}" for said in (WORSE, BETTER, SAME, NOISY)
    )
    text += (
        f"\n\n{counts}; a ratio has moved where it changed by more than {STEADY:.0%}, and is noisy where either run was, or\n"
        "where the machine itself (bandwidth, rate of products) moved by as much\n"
    )
    if found.only_before or found.only_after:
        text += f"only before: {found.only_before}, only after: {found.only_after}\n"
    before, after = found.machines
    return text + (f"both on {before}\n" if before == after else f"NOT THE SAME MACHINE: {before}; {after}\n")


def _cells(one: Moved) -> list[str]:
    ours, peer = one.before.ours, one.before.peer
    shown = [f"{_ratio(pair):.2f}x{'~' * noisy(pair)}" for pair in (one.before, one.after)]
    passed = ours["pass"].replace("forward + backward", "+ backward")
    over = f"{ours['variant']} over {peer['variant']}"
    return [ours["op"], passed, DTYPES[ours["dtype"]], over, *shown, f"{one.change:+.0%}", one.verdict]


def _ratio(pair: Pair) -> float:
    assert pair.ratio is not None
    return float(pair.ratio["median"])


def _machine(lines: Sequence[Line]) -> str:
    machine = lines[-1]["machine"]
    return f"{machine['device']}, {machine['cpu_isa']}, {machine['threads']} threads, torch {machine['torch']}"
