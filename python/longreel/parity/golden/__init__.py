"""Golden files: outputs of the reference implementations, replayed through the public API.

``python -m longreel.parity.golden PATH... [--backend B] [--dtype D] [--only GROUPS]``. One file here per group of golden
files; REPLAYERS says which file name goes to which.
"""
