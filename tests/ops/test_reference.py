"""The specification itself: gradcheck in float64, and agreement with maths written down a second time, in loops."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longreel import adaptive_pool, compress_frames, context_attention
from longreel.ops.registry import OPS
from longreel.testing.cases import corners
from longreel.testing.cases.case import Case, normal
from longreel.testing.determinism import same_bits
from longreel.testing.runner import prepare

CASES = [
    pytest.param(op, case, id=f"{op}-{case.name}", marks=[pytest.mark.fast] if case.fast else [])
    for op, spec in OPS.items()
    if spec.differentiable
    for case in corners(spec.name).cases()
]
# gradcheck perturbs every number: cases with more get its randomised form
SMALL = 150


@pytest.mark.parametrize(("op", "case"), CASES)
def test_gradcheck(op: str, case: Case) -> None:
    spec, given = OPS[op], case.inputs(frames=min(case.frames, 3))
    wanted = tuple(name for name in spec.differentiable if name in given)
    inputs = prepare(given, torch.float64, grad=wanted)
    size = sum(inputs[name].numel() for name in wanted)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = spec.reference(*spec.lower(**{**inputs, **dict(zip(wanted, tensors, strict=True))}))
        # an infinity has no difference quotient
        return tuple(t.where(t.isfinite(), 0.0) for t in outputs if t.requires_grad)

    assert torch.autograd.gradcheck(function, tuple(inputs[name] for name in wanted), fast_mode=size > SMALL, atol=1e-4)


def attention_in_loops(query: Tensor, patches: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """query [P, F, M, C], patches [F, N, C] -> context [P, F, C], weights [P, F, N]: one number at a time."""
    prompts, frames, rows, width = query.shape
    context, weights = query.new_zeros(prompts, frames, width), query.new_zeros(prompts, frames, patches.shape[1])
    for p in range(prompts):
        for f in range(frames):
            valid = [m for m in range(rows) if mask is None or mask[p, f, m]]
            for m in valid:
                scores = [scale * torch.dot(query[p, f, m], patch) for patch in patches[f]]
                top = max(scores)
                parts = [(s - top).exp() for s in scores]
                for n, part in enumerate(parts):
                    weights[p, f, n] += part / sum(parts) / len(valid)
            for n, patch in enumerate(patches[f]):
                context[p, f] += weights[p, f, n] * patch
    return context, weights


def as_image(patches: Tensor, height: int, width: int) -> Tensor:
    return patches.transpose(1, 2).unflatten(2, (height, width))


@pytest.mark.fast
class TestMaths:
    @pytest.mark.parametrize("sharp", [1.0, 30.0])
    @pytest.mark.parametrize("lead", [(), (4,), (2, 1), (2, 4)], ids=str)
    def test_context_attention_in_loops(self, lead: tuple[int, ...], sharp: float, generator: torch.Generator) -> None:
        query, patches = sharp * normal(generator, *lead, 3, 6), normal(generator, 4, 5, 6)
        mask = torch.rand(*lead, 3, generator=generator) < 0.6
        prompts = lead[:-1]
        context, weights = context_attention(query, patches, query_mask=mask, return_weights=True)
        expected = attention_in_loops(
            query.expand(*prompts, 4, 3, 6).reshape(-1, 4, 3, 6),
            patches,
            mask.expand(*prompts, 4, 3).reshape(-1, 4, 3),
            6**-0.5,
        )
        torch.testing.assert_close(context, expected[0].reshape(*prompts, 4, 6), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(weights, expected[1].reshape(*prompts, 4, 5), rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("lead", [(), (4,), (2, 1), (2, 4)], ids=str)
    def test_packed_is_frame_by_frame(self, lead: tuple[int, ...], generator: torch.Generator) -> None:
        lengths = [3, 0, 5, 1]
        bounds = torch.tensor([0, *lengths]).cumsum(0)
        query, patches = normal(generator, *lead, 3, 6), normal(generator, 9, 6)
        context, weights = context_attention(query, patches, cu_seqlens=bounds, return_weights=True)
        for f, (begin, end) in enumerate(pairwise(bounds)):
            own = query[..., f : f + 1, :, :] if lead[-1:] == (4,) else query
            one, row = context_attention(own, patches[None, begin:end], return_weights=True)
            torch.testing.assert_close(context[..., f, :], one[..., 0, :])
            torch.testing.assert_close(weights[..., begin:end], row[..., 0, :])
        assert not context[..., 1, :].any(), "a frame without patches gives 0"

    def test_weights_are_shares(self, generator: torch.Generator) -> None:
        query, patches = normal(generator, 2, 1, 5, 8), normal(generator, 3, 7, 8)
        mask = torch.tensor([[[True, False, True, True, False]], [[False] * 5]])
        context, weights = context_attention(query, patches, query_mask=mask, return_weights=True)
        torch.testing.assert_close(weights.sum(-1), torch.tensor([[1.0] * 3, [0.0] * 3], dtype=torch.float64))
        assert not context[1].any(), "a query set without a valid row gives 0"
        torch.testing.assert_close(context[0], context_attention(query[0, 0, mask[0, 0]], patches))

    def test_scale_none_is_the_released_rule(self, generator: torch.Generator) -> None:
        query, patches = normal(generator, 5, 16), normal(generator, 3, 7, 16)
        torch.testing.assert_close(context_attention(query, patches), context_attention(query, patches, scale=0.25))

    @pytest.mark.parametrize("prefix", [0, 1])
    @pytest.mark.parametrize("out", [1, 2, 3, 4, 5, 7, (2, 5), (6, 1)], ids=str)
    @pytest.mark.parametrize("grid", [(4, 4), (5, 5), (3, 7)], ids=str)
    def test_adaptive_is_torchs(
        self, grid: tuple[int, int], out: int | tuple[int, int], prefix: int, generator: torch.Generator
    ) -> None:
        patches = normal(generator, 2, prefix + grid[0] * grid[1], 3)
        expected = F.adaptive_avg_pool2d(as_image(patches[:, prefix:], *grid), out).flatten(2).transpose(1, 2)
        torch.testing.assert_close(adaptive_pool(patches, out, grid=grid, num_prefix_tokens=prefix), expected)

    @pytest.mark.parametrize("side", [4, 5, 16, 24])
    def test_grid_is_the_released_rule(self, side: int, generator: torch.Generator) -> None:
        patches = normal(generator, 1, side * side, 2)
        for g in range(2, side + 1):
            kernel = side // g
            expected = F.avg_pool2d(as_image(patches, side, side), kernel, kernel).flatten(2).transpose(1, 2)
            torch.testing.assert_close(adaptive_pool(patches, g, mode="grid"), expected)
        with pytest.raises(ValueError, match="finer than"):
            adaptive_pool(patches, side + 1, mode="grid")

    def test_grid_token_counts(self) -> None:
        """LLaMA-VID's table: g -> cells a side."""
        counts = {
            16: {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 8, 8: 8, 9: 16, 16: 16},
            24: {2: 2, 4: 4, 5: 6, 7: 8, 9: 12, 13: 24},
        }
        for side, rule in counts.items():
            for g, cells in rule.items():
                assert adaptive_pool(torch.zeros(1, side * side, 1), g, mode="grid").shape[1] == cells**2

    def test_mean_and_none(self, generator: torch.Generator) -> None:
        patches = normal(generator, 3, 7, 4)
        torch.testing.assert_close(
            adaptive_pool(patches, mode="mean", num_prefix_tokens=2), patches[:, 2:].mean(1, keepdim=True)
        )
        assert same_bits(adaptive_pool(patches, mode="none", num_prefix_tokens=2), patches[:, 2:])

    def test_prefix_takes_no_part(self, generator: torch.Generator) -> None:
        query, patches = normal(generator, 5, 8), normal(generator, 3, 18, 8).requires_grad_()
        options = {"output_size": 2, "return_weights": True, "backend": "reference"}
        whole = compress_frames(query, patches, num_prefix_tokens=2, **options)
        without = compress_frames(query, patches[:, 2:], **options)
        assert all(same_bits(a, b) for a, b in zip(whole, without, strict=True))
        sum(t.sum() for t in whole).backward()
        assert not patches.grad[:, :2].any()

    def test_compress_frames_is_both_ops(self, generator: torch.Generator) -> None:
        query, patches = normal(generator, 2, 1, 5, 8), normal(generator, 3, 17, 8)
        context, content, weights = compress_frames(
            query, patches, output_size=3, num_prefix_tokens=1, return_weights=True
        )
        expected = context_attention(query, patches[:, 1:], return_weights=True)
        assert same_bits(context, expected[0])
        assert same_bits(weights, expected[1])
        assert same_bits(content, adaptive_pool(patches, 3, num_prefix_tokens=1))
        assert compress_frames(query, patches, mode="mean").weights is None

    def test_narrow_inputs_are_computed_in_float32(self, generator: torch.Generator) -> None:
        """One rounding, at the end; weights stay float32; under autocast too."""
        query, patches = normal(generator, 5, 64).bfloat16(), normal(generator, 3, 49, 64).bfloat16()
        got = context_attention(query, patches, return_weights=True, backend="reference")
        wide = context_attention(query.float(), patches.float(), return_weights=True, backend="reference")
        assert (got[0].dtype, got[1].dtype) == (torch.bfloat16, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            cast = context_attention(query.float(), patches.float(), return_weights=True, backend="reference")
        for result in (got, cast):
            assert same_bits(result[0], wide[0].bfloat16())
            assert same_bits(result[1], wide[1])

    def test_float64_throughout(self, generator: torch.Generator) -> None:
        """A third of the rows is not a float32 third."""
        query, patches = normal(generator, 3, 8), normal(generator, 2, 5, 8)
        _, weights = context_attention(query, patches, return_weights=True)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, dtype=torch.float64), rtol=1e-15, atol=1e-15)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
