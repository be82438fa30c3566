"""Measuring: variants in turn, correctness before any ratio, and the roof in the same run."""

from longreel.bench.cases import BACKWARD, CASES, SIZES, BenchCase, measure, op_names
from longreel.bench.check import ErrorSum, Verdict
from longreel.bench.harness import Contender, compare
from longreel.bench.ops.block_sparse_attention import SparseCase, SparseShape
from longreel.bench.patch_case import PatchCase, PatchShape
from longreel.bench.report import Outcome, Report
from longreel.bench.roof import Roof, RoofMeter
from longreel.bench.tables import markdown_table, rich_table
from longreel.ops.common.cost import Cost

__all__ = [
    "BACKWARD",
    "CASES",
    "SIZES",
    "BenchCase",
    "Contender",
    "Cost",
    "ErrorSum",
    "Outcome",
    "PatchCase",
    "PatchShape",
    "Report",
    "Roof",
    "RoofMeter",
    "SparseCase",
    "SparseShape",
    "Verdict",
    "compare",
    "markdown_table",
    "measure",
    "op_names",
    "rich_table",
]
