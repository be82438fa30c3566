"""Triton kernels, a file or a folder an op; imported at the first call that needs one.

Each has the host functions named after the low-level ops that they implement, and `DTYPES`. `common` is what several ops
share, `frames` what compress_frames and context_attention are made of. What is compiled ahead of time and held to a budget
are the launches of tests/budgets/<op>.py.
"""
