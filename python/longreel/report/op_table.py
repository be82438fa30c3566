"""Ours beside a peer as the cells of a row, the one source of every table of ops."""

from longreel.bench.tables import rate, seconds, size
from longreel.report.result_lines import DTYPES
from longreel.report.result_pairs import Pair, commit, over

_TIMES = ["time", "peer's time", "ratio (quartiles)", "memory", "peer's memory"]
_BOUNDS = ["FLOPs", "bytes", "of roof", "of sparsity bound"]
HEAD = ["pass", "dtype", "ours", "peer", *_TIMES, *_BOUNDS, "commit"]
# Columns of words.
LEFT = 4


def row(pair: Pair) -> list[str]:
    """The cells under HEAD."""
    ours, peer = pair.ours, pair.peer
    work = ours["work"]
    return [
        ours["pass"], DTYPES[ours["dtype"]], ours["variant"], peer["variant"],
        seconds(ours["seconds"]["median"]), seconds(peer["seconds"]["median"]), over(pair),
        size(ours["extra_bytes"]), size(peer["extra_bytes"]),
        rate(work["flops"], "FLOP"), size(work["bytes_read"] + work["bytes_written"]),
        _share(ours["share_of_roof"]), _share(ours.get("share_of_sparsity_bound")), commit(ours),
    ]  # fmt: skip


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
