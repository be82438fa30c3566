"""VideoLayout, and what is derived from it: ranges, schedule, positions, slots, labels, cost, export, pictures."""

from longreel.layout._cost import AttentionCost, cost, executed_pairs, visible_pairs
from longreel.layout._positions import global_positions, positions, query_positions, query_rows
from longreel.layout._ranges import Ranges, RowBounds, ranges, row_bounds
from longreel.layout._slots import cached, cached_ranges, slots
from longreel.layout.bounded import BoundedSteps, bounded_steps
from longreel.layout.dense import dense_mask
from longreel.layout.export import flashmask_row_indices, flex_block_mask, flex_mask_mod
from longreel.layout.global_keys import global_index
from longreel.layout.labels import ignored_labels, kinds
from longreel.layout.pictures import draw, to_ascii, to_svg
from longreel.layout.planned import PlannedLayout
from longreel.layout.planning import lowered_to, plan
from longreel.layout.ratios import RatioDraw
from longreel.layout.schedule import Schedule
from longreel.layout.segments import Document, Rule, Segment
from longreel.layout.steps import TextSteps, text_steps
from longreel.layout.video_layout import VideoLayout, derived

derived.dense_mask, derived.plan, derived.lowered_to = dense_mask, plan, lowered_to

# Names of earlier days.
kept, kept_runs = cached, cached_ranges

__all__ = [
    "AttentionCost",
    "BoundedSteps",
    "Document",
    "PlannedLayout",
    "Ranges",
    "RatioDraw",
    "RowBounds",
    "Rule",
    "Schedule",
    "Segment",
    "TextSteps",
    "VideoLayout",
    "bounded_steps",
    "cached",
    "cached_ranges",
    "cost",
    "draw",
    "executed_pairs",
    "flashmask_row_indices",
    "flex_block_mask",
    "flex_mask_mod",
    "global_index",
    "global_positions",
    "ignored_labels",
    "kinds",
    "positions",
    "query_positions",
    "query_rows",
    "ranges",
    "row_bounds",
    "slots",
    "text_steps",
    "to_ascii",
    "to_svg",
    "visible_pairs",
]
