"""Scores, cuts and counts against their formulas, written out over whole videos in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import longreel
from longreel.compression import choose, frames, merge, scores
from longreel.compression.cuts import METHODS, cut
from longreel.measure.memory import peak_memory

T, GRID, C, M = 7, (3, 5), 6, 4
N = GRID[0] * GRID[1]


def features(dtype: torch.dtype = torch.float64, t: int = T) -> Tensor:
    """Scenes of a few frames that are nearly the same."""
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(t, N, C, generator=generator, dtype=torch.float64)[torch.arange(t) // 3]
    return (scenes + 0.2 * torch.randn(t, N, C, generator=generator, dtype=torch.float64)).to(dtype)


def question(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(M, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def plain_change(x: Tensor) -> Tensor:
    out = torch.full((len(x), N), torch.inf, dtype=x.dtype)
    for t in range(1, len(x)):
        out[t] = 1 - (unit(x[t]) * unit(x[t - 1])).sum(-1)
    return out


def plain_query(x: Tensor) -> Tensor:
    weights = (question() @ x.flatten(0, 1).T / C**0.5).softmax(-1)
    return weights.mean(0).view(len(x), N)


def plain_uniqueness(x: Tensor) -> Tensor:
    steady = x.flatten(0, 1).var(0, correction=0).argsort()[: C // 2]
    z = unit(x[..., steady])
    out = torch.zeros(len(x), N, dtype=x.dtype)
    for centre in (z.mean((0, 1)), z.mean(1, keepdim=True)):
        for power in range(-3, 2):
            out -= (-((z - centre) ** 2).sum(-1) / 2 ** (power + 1)).exp()
    return out


PLAIN: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
    (scores.by_change, plain_change),
    (lambda x: scores.by_query(x, question(x.dtype)), plain_query),
    (lambda x: scores.by_uniqueness(x)[0], plain_uniqueness),
]


@pytest.mark.parametrize(("ours", "plain"), PLAIN, ids=["change", "query", "uniqueness"])
def test_scores(monkeypatch: pytest.MonkeyPatch, ours: Callable, plain: Callable) -> None:
    for t in (1, 2, T):
        want = plain(features(t=t))
        for tokens in (1, 2 * N, 3 * N + 1, 10_000):
            monkeypatch.setattr(frames, "NUMBERS", tokens * C)
            torch.testing.assert_close(ours(features(t=t)), want, atol=1e-12, rtol=1e-12)
            got = ours(features(torch.float32, t))
            assert got.dtype is torch.float32
            torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-4)
        assert ours(features(torch.bfloat16, t)).dtype is torch.float32


def test_the_query_score_is_context_attention_over_the_video() -> None:
    x, query = features(torch.float32), question(torch.float32)
    bounds = torch.tensor([0, T * N])
    _, weights = longreel.context_attention(query, x.flatten(0, 1), cu_seqlens=bounds, return_weights=True)
    torch.testing.assert_close(scores.by_query(x, query).flatten(), weights.flatten(), atol=1e-6, rtol=1e-5)


def test_a_frame_unlike_the_video_has_the_larger_budget() -> None:
    x = features()[:1].expand(T, -1, -1).clone()
    x[4] = -features()[3]
    _, unlike = scores.by_uniqueness(x)
    assert unlike.argmax() == 4
    kept = cut(x, "vidcom2", T * N // 3, grid=GRID).kept
    per_frame = torch.bincount(kept // N, minlength=T)
    assert per_frame.argmax() == 4
    assert per_frame.min() >= 1


class Reader:
    """Features that are read by slices and noted."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.shape, self.most = x, x.shape, 0

    def __getitem__(self, span: slice) -> Tensor:
        self.most = max(self.most, len(self.x[span]))
        return self.x[span]


@pytest.mark.parametrize("method", METHODS)
def test_cuts_have_exact_counts_and_read_in_chunks(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    x = features()
    wanted = [1, T - 1, T, N, 40, T * N - 1, T * N] if method != "pool" else [T, 4 * T, T * N]
    for count in wanted:
        whole = cut(x, method, count, grid=GRID, query=question())
        assert whole.kept.tolist() == sorted(set(whole.kept.tolist()))
        assert len(whole.kept) == count
        scored = frames.SCORED if method in ("context", "evs") else 1
        monkeypatch.setattr(frames, "NUMBERS", -(-2 * N * C // scored))
        monkeypatch.setattr(merge, "LONGEST", 2 * N)
        small = cut(reader := Reader(x), method, count, grid=GRID, query=question())
        got = small.of(reader)
        # Where all stay nothing is scored.
        assert reader.most == (1 if scored > 1 and count == T * N else 2)
        monkeypatch.undo()
        assert got.shape == (count, C)
        if method != "merge":
            assert torch.equal(small.kept, whole.kept)
            assert torch.equal(got, whole.of(x))
        if method in ("context", "evs", "vidcom2") or count == T * N:
            assert torch.equal(got, x.flatten(0, 1)[small.kept])


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_nothing(method: str) -> None:
    x, query = features(torch.float32), question(torch.float32)
    want = cut(x, method, 40, grid=GRID, query=query)
    with torch.autocast("cpu", torch.bfloat16):
        got = cut(x, method, 40, grid=GRID, query=query)
        assert torch.equal(got.kept, want.kept)
        assert torch.equal(got.of(x), want.of(x))


def test_of_equal_scores_the_first_wins() -> None:
    x = torch.ones(T, N, C)
    assert cut(x, "evs", N + 3, grid=GRID).kept.tolist() == list(range(N + 3))
    assert cut(x, "context", 5, grid=GRID, query=torch.ones(1, C)).kept.tolist() == list(range(5))
    assert torch.bincount(cut(x, "vidcom2", 2 * T + 3, grid=GRID).kept // N).tolist() == [3, 3, 3, 2, 2, 2, 2]


def test_tokens_that_are_the_same_score_the_same() -> None:
    """Also where a chunk ends, and where vectors of a processor do."""
    x = torch.randn(1, 1, 37, generator=torch.Generator().manual_seed(6)).expand(9, N, -1).contiguous()
    x[4, 3] += 1
    others = torch.arange(9 * N) != 4 * N + 3
    found = scores.by_uniqueness(x)[0]
    assert found[[0, 1, 2, 8]].unique().numel() == 1
    assert found.flatten()[~others] > found.flatten()[others].max()
    assert scores.by_change(x)[1:4].unique().numel() == 1


def test_tokens_that_are_not_there_are_never_chosen() -> None:
    x, alive = features(), torch.rand(T, N, generator=torch.Generator().manual_seed(3)) < 0.5
    alive[2] = False
    for method in ("evs", "context", "vidcom2", "merge"):
        for count in (1, 20, int(alive.sum())):
            kept = cut(x, method, count, grid=GRID, query=question(), alive=alive).kept
            assert len(kept) == count
            assert alive.flatten()[kept].all()


def test_pooling_is_of_the_frames_shape() -> None:
    x = torch.arange(2.0 * 24).view(2, 24, 1)
    one = cut(x, "pool", 12, grid=(4, 6))
    assert one.kept.view(2, 6).tolist() == [[7, 9, 11, 19, 21, 23], [31, 33, 35, 43, 45, 47]]
    assert one.of(x).view(2, 6)[0].tolist() == [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]
    assert len(cut(x, "pool", 11, grid=(4, 6)).kept) == 2 * 2 * 2
    with pytest.raises(ValueError, match="each of 2 frames a token at least"):
        cut(x, "pool", 1, grid=(4, 6))


def test_merging_keeps_what_is_apart_and_averages_what_is_alike() -> None:
    """Three points, each several times: the anchors are one of each, and the averages the points."""
    points = torch.eye(3, C, dtype=torch.float64)
    of = torch.arange(15) % 3
    x = (points[of] + 1e-3 * torch.randn(15, C, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[None]
    one = cut(x, "merge", 3, grid=GRID)
    assert sorted(of[one.kept].tolist()) == [0, 1, 2]
    for kept, mean in zip(one.kept, one.of(x), strict=True):
        torch.testing.assert_close(mean, x[0][of == of[kept]].mean(0), atol=1e-12, rtol=0)


def test_a_token_of_any_segment_stands_for_itself_where_all_stay_but_one() -> None:
    x = features()
    one = cut(x, "merge", T * N - 1, grid=GRID)
    changed = (one.of(x) != x.flatten(0, 1)[one.kept]).any(1).sum()
    assert changed == 1


def test_segments_are_cut_where_the_scene_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.eye(C)[[0, 0, 1, 1, 1, 1, 2]][:, None].expand(-1, N, -1)
    for tokens in (1, 3 * N, 10_000):
        monkeypatch.setattr(frames, "NUMBERS", tokens * C)
        assert merge.segments(x) == [(0, 2), (2, 6), (6, 7)]
    monkeypatch.setattr(merge, "LONGEST", 3 * N)
    assert merge.segments(x) == [(0, 2), (2, 5), (5, 6), (6, 7)]


def test_shares_are_exact_and_within_bounds() -> None:
    generator = torch.Generator().manual_seed(5)
    for t in (1, 2, 9):
        wanted = torch.rand(t, generator=generator) + 0.01
        most = torch.randint(0, 8, (t,), generator=generator)
        for total in range(1, int(most.sum()) + 1):
            got = choose.share_out(total, wanted, most)
            assert got.sum() == total
            assert (got <= most).all()
            assert (got >= (most > 0).long() * (total >= (most > 0).sum())).all()
    assert choose.share_out(6, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([9, 9, 9])).tolist() == [1, 2, 3]
    assert choose.share_out(5, torch.ones(3), torch.tensor([9, 9, 1])).tolist() == [2, 2, 1]
    assert choose.share_out(2, torch.ones(3), torch.tensor([9, 9, 9])).tolist() == [1, 1, 0]


@pytest.mark.parametrize("rows", [M, 60])
def test_one_read_gives_all_scores(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """A second one for more queries than a token has room for."""
    x = features(torch.float32)
    wide = torch.randn(T, N, 64, generator=torch.Generator().manual_seed(8)) if rows == M else x
    query = torch.randn(rows, wide.shape[-1], generator=torch.Generator().manual_seed(9))
    monkeypatch.setattr(frames, "NUMBERS", -(-2 * N * wide.shape[-1] // frames.SCORED))
    reads = []

    class Noted(Reader):
        def __getitem__(self, span: slice) -> Tensor:
            reads.append(span)
            return super().__getitem__(span)

    found = scores.fused(Noted(wide), query)
    # The first look says the dtype.
    assert sum(span.start is not None for span in reads) == (4 if rows == M else 8)
    assert found.saliency is not None
    assert float(found.saliency.sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found.saliency, scores.by_query(wide, query), rtol=0, atol=0)
    torch.testing.assert_close(found.change, scores.by_change(wide), rtol=0, atol=0)
    mean = unit(wide).mean(1, keepdim=True)
    torch.testing.assert_close(found.uniqueness, 1 - (unit(wide) * unit(mean)).sum(-1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("method", ["evs", "context", "vidcom2"])
def test_features_that_are_no_numbers_are_refused(method: str, bad: float) -> None:
    broken = features()
    broken[2, 3, 1] = bad
    with pytest.raises(ValueError, match="score NaN"):
        cut(broken, method, 20, grid=GRID, query=question())


class Footage:
    """Features that are made when they are read, as a file's: still scenes of fifty frames."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, t: int) -> None:
        self.shape = torch.Size([t, 64, 256])
        generator = torch.Generator().manual_seed(10)
        self.scenes, self.noise = (torch.randn(8, 64, 256, generator=generator) for _ in range(2))

    def __getitem__(self, span: slice) -> Tensor:
        t = torch.arange(*span.indices(self.shape[0]))
        return self.scenes[t // 50 % 8] + 0.1 * self.noise[t % 8]


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_the_frames(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Beyond a chunk and what stays: scores and places, a hundredth of the features, do."""
    monkeypatch.setattr(frames, "NUMBERS", 2**15)
    query = torch.randn(2, 256, generator=torch.Generator().manual_seed(11))

    def made(t: int) -> int | None:
        x = Footage(t)
        return peak_memory(lambda: cut(x, method, t, grid=(8, 8), query=query).of(x), x.device).extra

    short, long = 100, 500
    made(short)
    few, many = made(short), made(long)
    if few is None or many is None:
        pytest.skip("memory is not measured here")
    # a token of each frame stays; what comes of the allocator is below a mebibyte
    assert many - few < (long - short) * 64 * 256 * 4 / 8 + 2**20
