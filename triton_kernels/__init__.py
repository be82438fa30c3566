"""Triton kernels, one file per op; imported at the first call that needs one.

Each file holds the kernels, the host functions named after the low-level ops that they implement, `DTYPES`, and
`aot_signatures()`, which lists what is compiled ahead of time and held to a register budget.
"""
