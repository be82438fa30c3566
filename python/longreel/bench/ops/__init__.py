"""The benchmark of every op, a module each under the op's name: its `CASE`, with shapes and peers."""
