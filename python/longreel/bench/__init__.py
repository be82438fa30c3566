"""Measuring: variants in turn, correctness before any ratio, and the roof in the same run."""

from longreel.bench.cases import BACKWARD, SIZES, Case, Shape, measure, op_names
from longreel.bench.check import ErrorSum, Verdict
from longreel.bench.harness import Variant, compare
from longreel.bench.report import Outcome, Report
from longreel.bench.roof import Roof, RoofMeter
from longreel.bench.tables import markdown_table, rich_table
from longreel.ops._cost import Cost

__all__ = [
    "BACKWARD",
    "SIZES",
    "Case",
    "Cost",
    "ErrorSum",
    "Outcome",
    "Report",
    "Roof",
    "RoofMeter",
    "Shape",
    "Variant",
    "Verdict",
    "compare",
    "markdown_table",
    "measure",
    "op_names",
    "rich_table",
]
