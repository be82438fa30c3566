"""Every CUDA C++ kernel, forward and backward, for compute-sanitizer (small shapes) or a profiler (--true-size).

compute-sanitizer --tool racecheck python3 .ci/cuda_small.py [--true-size] [op ...]
"""

import sys

import torch

from longreel.bench.cases import CASES, shape_of
from longreel.ops.registry import OPS
from longreel.testing.cases import corners
from longreel.testing.runner import DTYPES, Variant, low_level, prepare, run


def small(ops: list[str]) -> int:
    """Every quick contract case in every dtype; a fault is the sanitizer's to report."""
    calls = 0
    for op in ops:
        variant = Variant(op, "cuda", "cuda")
        leaves = variant.spec.differentiable
        for case in (case for case in corners(variant.op).cases() if case.fast):
            for dtype in DTYPES:
                inputs = prepare(case.inputs(), dtype, "cuda")
                run(op, low_level(variant), inputs, [name for name in leaves if name in inputs])
                calls += 1
    torch.cuda.synchronize()
    return calls


def true_size(ops: list[str]) -> int:
    """One forward and backward pass of every benchmark case in bfloat16 on every kernel of ours, and a step of decoding."""
    calls = 0
    for op in ops:
        case = CASES[op](op, shape_of(op, "hour", {}), torch.bfloat16, torch.device("cuda"), "all")
        for name in case.kernels:
            case.variant(name).make()()
            calls += 1
        case.release()
        for steps in (steps for steps in corners(op).gpu_cases() if steps.name == "decode"):
            inputs = prepare(steps.inputs(), torch.bfloat16, "cuda")
            run(op, low_level(Variant(op, case.kernels[0], "cuda")), inputs)
            calls += 1
    torch.cuda.synchronize()
    return calls


if __name__ == "__main__":
    named = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    profiled = "--true-size" in sys.argv
    ours = [op for op, spec in OPS.items() if profiled or any(row.backend == "cuda" for row in spec.rows)]
    done = (true_size if profiled else small)([op for op in ours if not named or op in named])
    print(f"{done} calls")
