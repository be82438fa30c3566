"""The needle: the task, its training pass against the plain one, and what the committed weights recall."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longreel import VideoLayout
from longreel.models.video_xl import LayoutRows, VSTDecoder
from longreel.rotary import rotary_tables, rotated

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/needle"))

from needle_model import encode, fresh, load, recalled, reloaded, shuffled
from needle_pass import answers, plan_of
from needle_task import CELL, FILLER, KEY, VALUE, Needles, batch
from needle_train import STAGES, train_step


@pytest.mark.parametrize("task", [Needles(2, 24, 4), Needles(3, 40, 15), Needles(16)])
def test_pairs_stand_where_it_says(task: Needles) -> None:
    given, again = batch(task, 50, seed=3), batch(task, 50, seed=3)
    assert all(torch.equal(getattr(given, name), getattr(again, name)) for name in ("video", "keys", "values", "at"))
    assert given.video.shape == (50, task.tokens)
    assert torch.equal(given.video.gather(1, given.at), given.keys)
    assert torch.equal(given.video.gather(1, given.at + 1), given.values)
    assert int((given.video < FILLER).sum()) == 2 * given.keys.numel()
    assert bool(((given.keys >= KEY) & (given.keys < VALUE)).all())
    assert bool(((given.values >= VALUE) & (given.values < FILLER)).all())
    assert all(len(set(keys.tolist())) == task.pairs for keys in given.keys)
    # Each in its own part of the video, and not across two cells.
    assert bool((given.at % CELL < CELL - 1).all())
    assert bool((given.at[:, 1:] // CELL > given.at[:, :-1] // CELL).all())


@pytest.mark.parametrize(("chunks", "chunk", "pairs"), [(2, 20, 1), (2, 24, 7), (2, 24, 0), (64, 144, 65)])
def test_more_pairs_than_there_is_room_for(chunks: int, chunk: int, pairs: int) -> None:
    with pytest.raises(ValueError, match="allowed are multiples of 8 and, of"):
        Needles(chunks, chunk, pairs)


class TurnedRows(LayoutRows):
    """Rows that stand some positions [B, R] further on: turned by as much beforehand."""

    further: tuple[Tensor, Tensor]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attend(layer, rotated(q, *self.further), rotated(k, *self.further), v)


def embedded(decoder: VSTDecoder, ids: Tensor) -> Tensor:
    return decoder.language.get_input_embeddings()(ids)


def plainly(decoder: VSTDecoder, video: Tensor, asked: Tensor, skipped: Tensor) -> Tensor:
    """`answers` for two chunks of 24, through all rows of both layers."""
    layout = VideoLayout.vst(visual=48, chunk=24, ratio=8, text=asked.shape[1])
    rows = TurnedRows(layout, decoder.inv_freq)
    further = torch.cat(
        [skipped.repeat_interleave(torch.tensor([24, 24, asked.shape[1]]), 1), skipped[:, [0] * 3 + [1] * 3]], 1
    )
    cos, sin = rotary_tables(decoder.inv_freq, further)
    rows.further = cos[:, :, None], sin[:, :, None]
    raw = embedded(decoder, torch.cat([video, asked], 1))
    hidden = decoder.rows(torch.cat([raw, decoder.vst.expand(len(video), 6, -1)], 1), rows)
    return decoder.logits(hidden[:, 48 : 48 + asked.shape[1]])


def test_the_training_pass_is_the_plain_one() -> None:
    decoder, given = fresh(), batch(Needles(2, 24, 4), 3, seed=1)
    for skipped in (torch.zeros(3, 3, dtype=torch.long), torch.tensor([[0, 5, 90], [7, 7, 7], [2, 300, 1100]])):
        gradients = []
        for logits in (
            plainly(decoder, given.video, given.keys, skipped),
            answers(decoder, embedded(decoder, given.video), given.keys, plan_of(2, 24, 8, 4), skipped),
        ):
            decoder.zero_grad()
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), given.values.flatten()).backward()
            gradients.append([logits, *(p.grad for p in decoder.parameters() if p.grad is not None and p.grad.any())])
        assert len(gradients[0]) == len(gradients[1]) > 20
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_training_pass_answers_as_the_memory_does() -> None:
    """A key asked alone behind the cache's chunks, one after the other."""
    decoder, given = fresh().eval(), batch(Needles(3), 1, seed=2)
    memory = encode(decoder, given.video[0])
    assert memory.tokens == 3 * 18
    for key in given.keys[0]:
        _, logits = decoder.answer(memory, key[None], length=1)
        wanted = answers(decoder, embedded(decoder, given.video), key.view(1, 1), plan_of(3, 144, 8, 1))
        torch.testing.assert_close(logits, wanted[0], rtol=1e-4, atol=1e-4)


def test_a_step_of_every_stage_has_a_gradient_for_every_vst_weight() -> None:
    decoder = fresh()
    for stage in (STAGES[0], STAGES[-1]):
        decoder.zero_grad()
        loss, right = train_step(decoder, stage, seed=0)
        loss.backward()
        assert loss.isfinite()
        assert 0 <= right <= 1
        # Nobody reads what a VST token asks for in the last layer.
        without = {n for n, p in decoder.named_parameters() if "beacon" in n and (p.grad is None or not p.grad.any())}
        assert without == {f"language.model.layers.1.self_attn.beacon_q_proj.{part}" for part in ("weight", "bias")}


@torch.no_grad()
@pytest.mark.parametrize(("chunks", "ratio", "videos"), [(16, 8, 3), (32, 4, 1)])
def test_what_the_committed_weights_recall(chunks: int, ratio: int, videos: int) -> None:
    """At the length of training and at twice that: nearly all, the same from the file, next to none of a shuffled memory."""
    decoder, given = load(ratio=ratio), batch(Needles(chunks), videos, seed=10**8)
    right, broken = list[Tensor](), list[Tensor]()
    for video, keys, values in zip(given.video, given.keys, given.values, strict=True):
        memory = encode(decoder, video)
        answered = recalled(decoder, memory, keys)
        assert torch.equal(recalled(decoder, reloaded(decoder, memory), keys), answered)
        right.append(answered == values)
        broken.append(recalled(decoder, shuffled(memory), keys) == values)
    assert torch.stack(right).float().mean() >= 0.95
    assert torch.stack(broken).float().mean() <= 0.25
