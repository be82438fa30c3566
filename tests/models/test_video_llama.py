"""Video-LLaMA: the streamed video Q-Former, positions beyond the trained ones, released names, the sound's clips and mels."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Blip2QFormerModel
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from longreel.models import stages
from longreel.models.sizes import LanguageSize, TowerSize
from longreel.models.video_llama import (
    AudioTower,
    AudioTowerSize,
    Branches,
    BranchSize,
    VideoLlama,
    VideoLlamaPreset,
    clip_ranges,
    clips_of,
    log_mel,
    published,
)
from longreel.models.video_llama.checkpoint import CheckpointError, load, sized, to_released
from longreel.models.video_llama.clips import PlacedClips
from longreel.models.video_llama.positions import positions
from longreel.models.video_llama.spool import FrameSpool
from longreel.parity.golden.files import read

_QFORMER = BranchSize(width=24, layers=2, heads=2, mlp=32, queries=6)
SMALL = VideoLlamaPreset(
    name="small-for-tests",
    tower=TowerSize(image=28, patch=14, width=16, layers=1, heads=2, mlp=32),
    frame=replace(_QFORMER, layers=3, every=2),
    video=_QFORMER,
    listen=replace(_QFORMER, queries=3),
    audio=AudioTowerSize(width=16, layers=2, heads=2, mlp=32, out=20),
    language=LanguageSize(width=32, layers=1, heads=4, kv_heads=2, mlp=64, vocabulary=260, positions=256),
    frames=5,
    clips=4,
    chunk=4,
)


def adapter(**options: object) -> Branches:
    torch.manual_seed(1)
    return Branches(SMALL, **options).eval().requires_grad_(False)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("frames", [1, 5, 13])
def test_streamed_is_whole(dtype: torch.dtype, atol: float, frames: int) -> None:
    model = adapter(interpolate=True).to(dtype)
    tokens = 3 * torch.randn(frames, 6, 24, dtype=dtype)
    whole, calls = model.video_tokens(tokens[None]), list[int]()

    def parts() -> Iterator[Tensor]:
        calls.append(1)
        yield from torch.split(tokens, 4)

    streamed = model.video_tokens_in_parts(frames, parts)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=atol)
    assert len(calls) == 2, "once a layer that reads"


def test_the_reference_path_is_transformers_and_agrees() -> None:
    ours = adapter(interpolate=True).double()
    theirs = published(ours)
    assert isinstance(theirs.video_Qformer["bert"].model, Blip2QFormerModel)
    assert not any(isinstance(module, Blip2QFormerModel) for module in ours.modules())
    features, sound = torch.randn(7, 5, 16).double(), 20 * torch.randn(1, 6, 20).double()
    tokens = ours.frame_tokens(features)
    torch.testing.assert_close(theirs.frame_tokens(features), tokens, rtol=0, atol=1e-12)
    torch.testing.assert_close(theirs.video_tokens(tokens[None]), ours.video_tokens(tokens[None]), rtol=0, atol=1e-12)
    torch.testing.assert_close(theirs.audio_tokens(sound), ours.audio_tokens(sound), rtol=0, atol=1e-12)


def test_order_of_frames_and_of_clips_matters() -> None:
    model = adapter()
    tokens, sound = torch.randn(1, 4, 6, 24), torch.randn(1, 4, 20)
    assert (model.video_tokens(tokens) - model.video_tokens(tokens.flip(1))).norm() > 0.01
    assert (model.audio_tokens(sound) - model.audio_tokens(sound.flip(1))).norm() > 0.01


def test_positions() -> None:
    module = torch.nn.Embedding(5, 3)
    table = module.weight.detach()
    assert torch.equal(positions(module, 4, False, "frames"), table[:4])
    stretched = positions(module, 9, True, "frames")
    torch.testing.assert_close(stretched[::2], table)
    torch.testing.assert_close(stretched[1], (table[0] + table[1]) / 2)
    torch.testing.assert_close(positions(module, 3600, True, "frames")[-1], table[-1])
    one = torch.nn.Embedding(1, 3)
    assert torch.equal(positions(one, 3, True, "frames"), one.weight.expand(3, -1))
    for count, what in ((6, "frames"), (3600, "clips")):
        with pytest.raises(ValueError, match=rf"{count:,} {what} are more than the 5 trained positions; --interpolate"):
            positions(module, count, False, what)
    with pytest.raises(ValueError, match="6 frames are more"):
        adapter().video_tokens(torch.randn(1, 6, 6, 24))
    with pytest.raises(ValueError, match="5 clips are more"):
        adapter().audio_tokens(torch.randn(1, 5, 20))


def test_audio_scale() -> None:
    sound = torch.nn.functional.normalize(torch.randn(2, 4, 20), dim=-1)
    trained = adapter(audio_scale="unit")
    torch.testing.assert_close(trained.audio_tokens(20 * sound), adapter().audio_tokens(sound))
    assert (trained.audio_tokens(sound) - adapter().audio_tokens(20 * sound)).norm() > 0.01


def test_gradients_reach_what_is_trained() -> None:
    model = adapter().requires_grad_(True)
    tokens = model.video_tokens(model.frame_tokens(torch.randn(4, 5, 16))[None])
    (tokens.square().sum() + model.audio_tokens(torch.randn(1, 4, 20)).square().sum()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # A bias of keys changes no softmax, and where keys are never projected it has no gradient.
    assert all(name.endswith("key.bias") for name in without)
    for name in ("video_frame_position_embedding.weight", "video_query_tokens", "audio_position_embedding.weight"):
        assert model.get_parameter(name).grad.abs().max() > 0


def test_hooks_act_on_position_tables_and_on_the_stem_of_the_sound() -> None:
    """What is computed from weights in another dtype, or of a part of them, is a call all the same."""
    model, tower = adapter(interpolate=True), AudioTower(SMALL.audio).eval()
    stem = tower.modality_preprocessors["audio"].rgbt_stem
    tokens, sound, mels = torch.randn(1, 4, 6, 24), torch.randn(1, 4, 20), torch.randn(2, 128, 204)
    for module, run in (
        (model.video_frame_position_embedding, lambda: model.video_tokens(tokens)),
        (model.audio_position_embedding, lambda: model.audio_tokens(sound)),
        (stem["proj"], lambda: tower(mels)[0]),
        (stem["norm_layer"], lambda: tower(mels)[0]),
    ):
        before = run()
        handle = module.register_forward_hook(lambda module, given, out: 2 * out.cos())
        assert not torch.allclose(run(), before, atol=1e-3)
        handle.remove()
        assert torch.equal(run(), before)


def test_bad_input_is_one_line() -> None:
    model = adapter()
    with pytest.raises(ValueError, match=r"features must have 3 dimensions, the last 16 wide, given \[2, 5, 17\]"):
        model.frame_tokens(torch.randn(2, 5, 17))
    with pytest.raises(TypeError, match=r"embeddings must be a tensor of floating numbers, given torch\.int64"):
        model.audio_tokens(torch.zeros(1, 4, 20, dtype=torch.long))
    with pytest.raises(ValueError, match="audio_scale must be one of released, unit, got 'loud'"):
        adapter(audio_scale="loud")


def test_the_spool_gives_back_what_it_took() -> None:
    spool, tokens = FrameSpool(), torch.randn(150, 6, 8).bfloat16()
    for part in torch.split(tokens, 37):
        spool.add(part)
    assert (len(spool), spool.nbytes) == (150, tokens.nbytes)
    for _ in range(2):
        parts = list(spool.parts())
        assert max(map(len, parts)) <= 64
        assert torch.equal(torch.cat(parts), tokens)


def test_released_names(golden_folder: Path) -> None:
    """All of the stored reference model's, and no other; the language model's and the towers' stand elsewhere."""
    stored = set()
    for name in ("video_branch", "audio_branch", "audio_chain"):
        stored |= set(read(golden_folder / f"videollama_{name}").weights(torch.float32))
    with torch.device("meta"):
        model = VideoLlama(replace(SMALL, frame=replace(SMALL.frame, layers=4)), device="meta")
    ours = {name for part in ("adapter.", "audio_encoder.") for name in model.state_dict() if name.startswith(part)}
    assert {name.removeprefix("adapter.") for name in ours} == {n for n in stored if not n.endswith("position_ids")}


def save(model: VideoLlama, folder: Path, config: dict[str, object] | None = None) -> None:
    """As the released files: one for each part."""
    released = to_released(model)
    language = folder / "llama"
    language.mkdir(parents=True)
    (language / "config.json").write_text(json.dumps(config or model.language.config.to_dict()))
    unread = {"blocks.39.norm1.bias": torch.zeros(1)}, {"modality_heads.text.0": torch.zeros(1)}
    for name, prefix, more in (
        ("eva_vit_g.pth", "visual_encoder.", unread[0]),
        ("imagebind_huge.pth", "audio_encoder.", unread[1]),
        ("llama/pytorch_model.bin", "llama_model.", {}),
    ):
        part = {key.removeprefix(prefix): released.pop(key) for key in list(released) if key.startswith(prefix)}
        torch.save(part | more, folder / name)
    frame = ("Qformer.", "query_tokens", "ln_vision")
    blip = {key: released.pop(key) for key in list(released) if key.startswith(frame)}
    torch.save({"model": blip | {"t5_proj.weight": torch.zeros(2)}}, folder / "blip2_pretrained_flant5xxl.pth")
    sound = {key: released.pop(key) for key in list(released) if key.startswith("audio_")}
    torch.save({"model": sound}, folder / "AL.pth")
    torch.save({"model": released, "epoch": 3}, folder / "VL.pth")


def test_a_released_folder(tmp_path: Path) -> None:
    model, other = VideoLlama(SMALL, seed=3), VideoLlama(SMALL, seed=4)
    model.tower.load_state_dict({
        name: value.index_fill(0, torch.arange(16, 32), 0) if name.endswith("qkv.bias") else value
        for name, value in model.tower.state_dict().items()
    })  # fmt: skip
    save(model, tmp_path / "DIR")
    assert sized(SMALL, tmp_path / "DIR").language.width == 32
    load(other, tmp_path / "DIR")
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    (tmp_path / "DIR/AL.pth").unlink()
    with pytest.raises(CheckpointError, match=r"lacks audio_\w+ and"):
        load(other, tmp_path / "DIR")
    (tmp_path / "DIR/llama/config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json of a language model"):
        sized(SMALL, tmp_path / "DIR")


def test_log_mels_are_those_of_transformers() -> None:
    sound = torch.randn(2, 32000).double()
    with pytest.warns(UserWarning, match="mel filter"):
        filters = mel_filter_bank(257, 128, 20.0, 8000.0, 16000, mel_scale="kaldi", triangularize_in_mel_space=True)
    window = window_function(400, "hann", periodic=False)
    for clip, found in zip(sound, log_mel(sound), strict=True):
        wanted = spectrogram(
            clip.numpy(), window, 400, 160, 512, 2.0, center=False, preemphasis=0.97, mel_filters=filters, log_mel="log",
            mel_floor=1.1920928955078125e-07, remove_dc_offset=True, dtype=np.float64,
        )  # fmt: skip
        assert wanted.shape == (128, 198)
        torch.testing.assert_close(
            found[:, :198], torch.from_numpy((wanted + 4.268) / 9.138).float(), rtol=0, atol=1e-5
        )
        assert torch.equal(found[:, 198:], torch.full((128, 6), 4.268 / 9.138))
    with pytest.raises(ValueError, match="at least 400 samples"):
        log_mel(torch.zeros(1, 399))


@pytest.mark.parametrize("name", ["mono_1p5s", "stereo_5s", "mono_60s", "mono_2p3s_silence"])
def test_stored_clips(golden_folder: Path, name: str) -> None:
    """Every clip that the file has of the reference's own float32, beside those with a truth, which the replayer takes."""
    case = read(golden_folder / "videollama_audio_mel").cases[name]
    waveform = case.inputs(torch.float32)["waveform"].float() / case.params["full_scale"]
    found = log_mel(clips_of(waveform))[case.params["stored_clips"]][:, None]
    limit = case.meta["suggested_tolerance"]["mel"]["float32"]["max_abs"]
    limit += case.meta["reference_error"]["mel"]["float32"]["max_abs"]
    assert (found - case.file.tensors[f"{name}/out/mel"]).abs().max() <= limit


class Blocks:
    """A sound that comes in blocks."""

    def __init__(self, sound: Tensor, size: int) -> None:
        self.blocks = iter(torch.split(sound.clone(), size, 1))

    def __iter__(self) -> Iterator[Tensor]:
        return self.blocks

    def __next__(self) -> Tensor:
        return next(self.blocks)

    def close(self) -> None: ...


@pytest.mark.parametrize("seconds", [0.5, 2.0, 2.6, 18.1, 40.0])
@pytest.mark.parametrize("placement", ["released", "whole", "all"])
def test_clips_out_of_blocks(seconds: float, placement: str) -> None:
    sound = torch.randn(2, int(16000 * seconds)) + torch.tensor([[0.5], [-0.2]])
    ranges = clip_ranges(sound.shape[1], 8, placement)
    clips = PlacedClips(Blocks(sound, 777), ranges)
    parts = [clips.until(time) for time in (0, 0.1, 1.7, 1.7, 9, 30, 100)]
    assert torch.equal(torch.cat([part.samples for part in parts]), clips_of(sound, placement=placement))
    times = torch.cat([part.times for part in parts]).tolist()
    assert times == [first / 16000 for first, _ in ranges]
    assert clips._held.shape[1] < 2 * 32000 + 777, "the sound itself is not held"


def test_placements() -> None:
    assert clip_ranges(36800)[1] == (599, 32599), "float64 seconds, as released"
    ten = 160000
    assert clip_ranges(ten)[-1] == (112000, 144000)
    assert clip_ranges(ten, 8, "whole")[-1] == (128000, ten)
    assert clip_ranges(ten, 1, "whole") == [(0, 32000)]
    assert clip_ranges(ten + 7, placement="all")[-1] == (ten, ten + 7)
    assert len(clip_ranges(3600 * 16000, placement="all")) == 1800
    with pytest.raises(ValueError, match="allowed: released, whole, all"):
        clip_ranges(ten, 8, "half")


def test_what_is_taken_of_a_clip() -> None:
    sound = torch.randn(2, 40000) + torch.tensor([[0.5], [-0.2]])
    held, first, end = sound.clone(), *clip_ranges(40000)[1]
    held[:, :32000] -= held[:, :32000].mean()
    torch.testing.assert_close(clips_of(sound)[1, : end - first], (held[:, first:end] - held[:, first:end].mean())[0])
    own = clips_of(sound, mean="own")[1, : end - first]
    torch.testing.assert_close(own, sound[0, first:end] - sound[0, first:end].mean())
    mixed = clips_of(sound, mean="own", channels="mean")[1, : end - first]
    torch.testing.assert_close(mixed, sound[:, first:end].mean(0) - sound[:, first:end].mean())


def test_what_is_seen_and_heard_matters() -> None:
    model = VideoLlama(SMALL)
    asked = torch.arange(5, 9)
    pictures = [torch.full((2, 28, 28, 3), value, dtype=torch.uint8) for value in (20, 200)]
    noise = torch.randn(2, 32000)
    sounds = [model.encode_audio(each) for each in (noise, noise**3)]
    assert [round(norm, 3) for norm in sounds[0].norm(dim=-1).tolist()] == [20.0, 20.0]
    seen = [model.adapter.video_tokens(model.adapter.frame_tokens(model.encode(each))[None])[0] for each in pictures]
    heard = [model.adapter.audio_tokens(each[None])[0] for each in sounds]
    pairs = ((seen[0], heard[0]), (seen[1], heard[0]), (seen[0], heard[1]))
    logits = [model.answer((sound, video), asked, length=1)[1] for video, sound in pairs]
    assert (logits[0] - logits[1]).norm() > 0.01 * logits[0].norm()
    assert (logits[0] - logits[2]).norm() > 0.01 * logits[0].norm()
    assert copy.deepcopy(model).double().answer((heard[0].double(),), asked, length=2)[0].shape == (2,)


@pytest.mark.parametrize("source", ["paper", "released"])
@pytest.mark.parametrize(("stage", "branch"), [(1, "video"), (2, "video"), (3, "audio"), (4, "audio")])
def test_a_step_of_every_stage(stage: int, branch: str, source: str) -> None:
    model = VideoLlama(SMALL)
    trained = set(stages("video-llama", stage, source).set(model))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    of_video = {name for name in before if name.startswith(("adapter.video_", "adapter.llama_proj."))}
    of_audio = {name for name in before if name.startswith("adapter.audio_")}
    assert trained == (of_video if branch == "video" else of_audio)
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    features = model.encode(torch.randint(0, 256, (3, 28, 28, 3), dtype=torch.uint8))
    # As published: ImageBind's embeddings of pictures, of a norm of 1.
    heard = model.adapter.audio_tokens(torch.nn.functional.normalize(torch.randn(1, 4, 20), dim=-1))
    seen = model.adapter.video_tokens(model.adapter.frame_tokens(features)[None])
    answer = torch.tensor([[9, 10, 11, 12]])
    embeds = torch.cat([heard, seen, model.language.get_input_embeddings()(answer)], 1)
    labels = torch.cat([torch.full((1, heard.shape[1] + seen.shape[1]), -100), answer], 1)
    model.language(inputs_embeds=embeds, labels=labels).loss.backward()
    torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0).step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved <= trained
    assert all(name.endswith("key.bias") for name in trained - moved), "a bias of keys changes no softmax"
