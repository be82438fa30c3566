"""Builds _ops.so with its CUDA objects and checks that this torch, CPU-only or not, loads it with every CUDA kernel in it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "cuda-check"

CHECK = """
import torch, longreel
from longreel.backends import TABLE
assert longreel.__file__.startswith({out!r}), longreel.__file__
for op, rows in TABLE.items():
    for backend in {{"cuda", "cluster"}} & {{row.backend for row in rows}}:
        for name in (f"longreel::{{op}}.{{backend}}", f"longreel::{{op}}_backward.{{backend}}"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name
            print(f"{{name}} registered under torch {{torch.__version__}}")
x = torch.randn(2, 16, 8)
assert torch.allclose(longreel.adaptive_pool(x, 4, backend="cpu"), x)
"""


def main() -> None:
    if shutil.which("nvcc") is None and not Path("/usr/local/cuda/bin/nvcc").exists():
        print("no nvcc on this machine: the CUDA kernels are not compiled here")
        return
    start = time.perf_counter()
    env = {**os.environ, "LONGREEL_CUDA": "1"}
    subprocess.run([sys.executable, "setup.py", "-q", "build", "--build-lib", str(OUT)], cwd=ROOT, env=env, check=True)
    code = "import sys; sys.meta_path = [m for m in sys.meta_path if 'Editable' not in str(m)]\n" + CHECK.format(
        out=str(OUT)
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(OUT)}, cwd=OUT, check=True)
    print(f"built and loaded in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
