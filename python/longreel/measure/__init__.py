"""Measuring: clocks, memory, the machine, statistics. Knows no op and no model."""
