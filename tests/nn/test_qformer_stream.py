"""A Q-Former over parts of its features: what it gives for the whole, bit for bit each time, in either form; or refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from test_qformer import KEYS, QUERIES, SIZES, close, drawn
from torch import Tensor

from longreel.nn import QFormer, QFormerConfig, qformer_stream
from longreel.nn.qformer_stream import FeaturePart, read_in_parts
from longreel.testing.budget import errors

CONFIG = QFormerConfig(**{**SIZES, "num_hidden_layers": 3}, cross_attention_frequency=1, text=False)
FRAMES = 6


def model(config: QFormerConfig = CONFIG) -> QFormer:
    torch.manual_seed(0)
    qformer = QFormer(config).double().eval()
    for layer in qformer.layers:
        torch.nn.init.normal_(layer.crossattention.inner.value.bias)
    return qformer


def cut(features: Tensor, table: Tensor, sizes: tuple[int, ...]) -> Callable[[], Iterator[FeaturePart]]:
    """Parts of so many frames."""
    size = features.shape[1] // len(table)

    def parts() -> Iterator[FeaturePart]:
        begin = 0
        for count in sizes:
            yield FeaturePart(features[:, size * begin : size * (begin + count)], table[begin : begin + count])
            begin += count

    return parts


@pytest.mark.parametrize("sizes", [(6,), (1, 2, 3), (5, 0, 1), (0, 6)])
@pytest.mark.parametrize("size", [1, 50])
@pytest.mark.parametrize("form", ["op", "projected"])
def test_parts_are_the_whole(sizes: tuple[int, ...], size: int, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    qformer, calls = model(), list[int]()
    op = qformer_stream.qformer_attention_of_part
    monkeypatch.setattr(qformer_stream, "qformer_attention_of_part", lambda *a, **k: calls.append(1) or op(*a, **k))
    if form == "projected":
        for layer in qformer.layers:
            # one that acts is never gone past
            layer.crossattention.inner.value.register_forward_hook(lambda module, given, out: 2 * out)
    tokens, features, table = drawn(QUERIES, 32), 3 * drawn(1, FRAMES * size, 24), drawn(FRAMES, 24)
    got = read_in_parts(qformer, tokens, cut(features, table, sizes))
    close(got, qformer(tokens, features, frame_table=table).queries)
    # of up to 4 keys the projections are cheaper
    assert len(calls) == 3 * sum(count * size > 4 for count in sizes) * (form == "op")
    assert torch.equal(read_in_parts(qformer, tokens, cut(features, table, sizes)), got)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_join(dtype: torch.dtype) -> None:
    """What the CPU's kernel makes of parts is no further from float64 than what it makes of the whole; few keys of one part
    outweigh all others."""
    qformer = model(replace(CONFIG, initializer_range=0.2)).to(dtype)
    tokens, features = drawn(QUERIES, 32).to(dtype), drawn(1, FRAMES * 50, 24).to(dtype)
    features[:, 170:180] *= 30
    parts = cut(features, torch.zeros(FRAMES, 24, dtype=dtype), (1, 2, 3))
    got = read_in_parts(qformer, tokens, parts), qformer(tokens, features).queries
    assert {rows.dtype for rows in got} == {dtype}
    exact = qformer.double()(tokens.double(), features.double()).queries
    joined, whole = (errors(rows, exact) for rows in got)
    assert joined.rms_rel < 1.5 * whole.rms_rel + torch.finfo(dtype).eps
    assert joined.max_rel < 1.5 * whole.max_rel + torch.finfo(dtype).eps


def test_refused() -> None:
    tokens, features = drawn(QUERIES, 32), drawn(1, KEYS, 24)
    parts = cut(features, torch.zeros(1, 24).double(), (1,))
    with pytest.raises(ValueError, match="no part"):
        read_in_parts(model(), tokens, lambda: ())
    with pytest.raises(ValueError, match="draws dropout"):
        read_in_parts(model(replace(CONFIG, attention_probs_dropout_prob=0.1)).train(), tokens, parts)
    hooked = model()
    hooked.encoder.layer[1].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"encoder\.layer\.1 has a hook"):
        read_in_parts(hooked, tokens, parts)
