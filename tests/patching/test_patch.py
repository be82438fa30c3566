"""longreel.patch: what a patched model computes, what it leaves behind, and what it is not put into."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_models import CLOSE, MODELS, Made, PerceptionLM, logits
from repositories import llama_vid, video_xl, voco_llama
from snapshot import apart, snapshot
from torch import nn

import longreel
from longreel.integrations.patches import qformer
from longreel.integrations.patching import Replacement
from longreel.testing.budget import check


@pytest.fixture(params=MODELS)
def made(request: pytest.FixtureRequest) -> Made:
    return MODELS[request.param]()


def grads(model: nn.Module, given: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logits(model, given).pow(2).mean().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_the_same_logits_and_gradients_and_nothing_left_behind(made: Made) -> None:
    model, given = made
    want, want_grads = logits(model, given).detach(), grads(model, given)
    before = snapshot(model)
    with longreel.patch(model) as report:
        assert report.patched
        assert not report.left
        got, got_grads = logits(model, given).detach(), grads(model, given)
        assert all(one.calls for line in report.lines for one in line.replacements)
        served = sum(one.calls - one.aside.total() for line in report.lines for one in line.replacements)
        assert served > 0, report
    assert apart(got, want) < CLOSE
    assert got_grads.keys() <= want_grads.keys()
    for name, grad in want_grads.items():
        # keys' biases cancel in a softmax: what plain attention gives them is rounding
        other = got_grads.get(name, torch.zeros(()))
        unit = max(grad.abs().max().item(), 1e-3 * max(g.abs().max().item() for g in want_grads.values()))
        assert (other - grad).abs().max().item() < 1e-4 * unit, name
    model.zero_grad()
    assert snapshot(model) == before
    assert torch.equal(logits(model, given), want)


def test_unpatch_and_patching_twice(made: Made) -> None:
    model, given = made
    # the first call of some of transformers' models leaves hooks of theirs
    want, before = logits(model, given).detach(), snapshot(model)
    first = longreel.patch(model)
    patched = snapshot(model)
    again = longreel.patch(model)
    assert {line.left for line in again.lines} == {"patched already"}
    assert len(again.lines) == len(first.lines)
    assert snapshot(model) == patched
    longreel.patch(model, backend="reference")
    assert apart(logits(model, given), want) < CLOSE
    longreel.unpatch(model)
    assert snapshot(model) == before
    longreel.unpatch(model)
    assert snapshot(model) == before


def test_nested_and_with_an_exception() -> None:
    model, given = llama_vid()
    before = snapshot(model)
    with longreel.patch(model, ops=["compress_frames"]):
        outer = snapshot(model)
        with longreel.patch(model), longreel.patch(model, backend="reference") as inner:
            assert logits(model, given) is not None
            assert sum(one.calls for line in inner.lines for one in line.replacements) > 0
        assert snapshot(model) == outer
        with pytest.raises(RuntimeError, match="in the middle"), longreel.patch(model):
            raise RuntimeError("in the middle")
        assert snapshot(model) == outer
    assert snapshot(model) == before
    # left in another order than entered
    first = longreel.patch(model)
    second = longreel.patch(model, backend="reference")
    first.__exit__()
    assert snapshot(model) != before
    second.__exit__()
    assert snapshot(model) == before


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("name", ["instructblip_video-sdpa", "llava_onevision-sdpa", "llama_vid"])
def test_copies_are_patched_and_apart(name: str, again: Callable[[Any], Any]) -> None:
    model, given = MODELS[name]()
    plain = again(model)
    longreel.patch(model)
    other = again(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.1)
        for weight in plain.parameters():
            weight.mul_(1.1)
    assert apart(logits(other, given), logits(plain, given)) < CLOSE
    assert apart(logits(other, given), logits(model, given)) > 1e-3
    assert not {id(one.module) for one in _held(other)} & {id(one.module) for one in _held(model)}
    assert all(one.calls for one in _held(other))
    longreel.unpatch(other)
    assert not _held(other)
    assert _held(model)


def _held(model: nn.Module) -> list[Replacement]:
    return [value for m in model.modules() for value in m.__dict__.values() if isinstance(value, Replacement)]


def test_saved_weights_are_a_plain_models(tmp_path: Path) -> None:
    model, given = MODELS["instructblip_video-sdpa"]()
    longreel.patch(model).patched  # noqa: B018
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="sdpa")
    assert not _held(loaded)
    assert apart(logits(model, given), logits(loaded.eval(), given)) < CLOSE


class Adapted(nn.Module):
    """A projection with a low-rank adapter, as LoRA's libraries make one: it has the weight, and adds to what it gives."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A, self.lora_B = nn.Linear(base.in_features, 2, False), nn.Linear(2, base.out_features, False)
        self.in_features, self.out_features = base.in_features, base.out_features

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base_layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def _shrink(linear: nn.Linear) -> None:
    # as ZeRO-3 has it between calls
    linear.weight = nn.Parameter(torch.empty(0))


MATRICES = {
    "instructblip_video-sdpa": "qformer.encoder.layer.0.crossattention.attention.key",
    "llava_onevision-sdpa": "model.multi_modal_projector.linear_2",
    "perception_lm": "multi_modal_projector.linear_2",
    "llama_vid": "model.vlm_att_key_projector",
    "video_xl": "model.mm_projector.2",
}


@pytest.mark.parametrize(("name", "path"), MATRICES.items())
def test_weights_that_are_not_the_matrix(name: str, path: str) -> None:
    model, given = MODELS[name]()
    parent, _, last = path.rpartition(".")
    linear = model.get_submodule(path)
    report = longreel.patch(model)
    model.get_submodule(parent)._modules[last] = Adapted(linear)
    # on a patched model: by its own method, and counted
    patched = logits(model, given).detach()
    assert any("Adapted" in why for reasons in report.aside.values() for why in reasons), report
    assert "by its own method: " in str(report)
    longreel.unpatch(model)
    plain = logits(model, given).detach()
    assert apart(patched, plain) < CLOSE
    # before it
    left = longreel.patch(model).left
    assert len(left) == 1
    assert "is a Adapted, whose weight is not all that it computes" in str(left[0].left)
    longreel.unpatch(model)
    model.get_submodule(parent)._modules[last] = linear
    linear.register_forward_hook(lambda module, args, out: out + 1)
    assert "with hooks" in str(longreel.patch(model).left[0].left)
    longreel.unpatch(model)
    linear._forward_hooks.clear()
    _shrink(linear)
    assert "a sharded one is to be gathered first" in str(longreel.patch(model).left[0].left)


@pytest.mark.parametrize("name", ["instructblip_video-sdpa", "instructblip_video-eager", "llama_vid"])
def test_attention_dropout_in_training_is_the_models_own(name: str) -> None:
    model, given = MODELS[name]()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
        if type(module) is nn.Dropout:
            module.p = 0.5
    model.train()
    outputs = []
    for patched in (False, True):
        report = longreel.patch(model, ops=["qformer_attention"]) if patched else None
        torch.manual_seed(7)
        outputs.append(logits(model, given))
    assert torch.equal(*outputs)
    assert report is not None
    assert {why for reasons in report.aside.values() for why in reasons} == {"attention dropout in training"}
    model.eval()
    aside = sum(n for reasons in report.aside.values() for n in reasons.values())
    assert logits(model, given) is not None
    assert sum(n for reasons in report.aside.values() for n in reasons.values()) == aside


def test_attention_weights_that_are_asked_for() -> None:
    model, given = MODELS["instructblip_video-eager"]()
    want = model(**given, output_attentions=True).qformer_outputs
    longreel.patch(model)
    got = model(**given, output_attentions=True).qformer_outputs
    for field in ("attentions", "cross_attentions"):
        assert len(want[field]) > 0
        assert all(torch.equal(a, b) for a, b in zip(got[field], want[field], strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masked_patches(attention: str) -> None:
    model, _ = MODELS[f"instructblip_video-{attention}"]()
    mask = torch.ones(3, 17, dtype=torch.long)
    mask[0, 11:], mask[2, :4] = 0, 0
    given = {
        "input_ids": torch.randint(3, 99, (3, 5)), "query_embeds": model.query_tokens.expand(3, -1, -1),
        "encoder_hidden_states": torch.randn(3, 17, 32), "encoder_attention_mask": mask,
    }  # fmt: skip
    want = model.qformer(**given)[0]
    hidden = given["encoder_hidden_states"].clone()
    with longreel.patch(model.qformer) as report:
        got = model.qformer(**given)[0]
        assert not report.aside
        given["encoder_hidden_states"] = hidden.masked_fill(mask[..., None] == 0, 1e3)
        assert apart(model.qformer(**given)[0], want) < CLOSE
        # a sample without a patch: the model's own answer, an average of what is masked
        given["encoder_attention_mask"] = mask * torch.tensor([[1], [0], [1]])
        patched = model.qformer(**given)[0]
        assert "a sample without a key" in str(report)
    assert apart(got, want) < CLOSE
    assert torch.equal(patched, model.qformer(**given)[0])


def test_what_is_left_and_why() -> None:
    for ratio, mode, stride, says in ((1, "max", 2, "no average"), (1, "average", 4, "not a multiple of 4")):
        model, given = video_xl(mode, stride)
        report = longreel.patch(model)
        logits(model, given)
        assert says in str(report)
        assert "does not pool" in str(longreel.patch(PerceptionLM(ratio)))
    model, _ = llama_vid()
    model.double()
    assert {line.left for line in longreel.patch(model).lines} == {
        "no kernel of qformer_attention for float64 on cpu",
        "no kernel of compress_frames for float64 on cpu",
    }
    del model.model.vlm_att_val_projector
    assert "patch after initialize_attention_modules" in str(longreel.patch(model, ops=["compress_frames"]))
    assert str(longreel.patch(nn.Linear(2, 2))) == "Linear: nothing in it that longreel has an op for"


def test_a_method_that_somebody_else_put_there() -> None:
    model, given = MODELS["instructblip_video-sdpa"]()
    module = model.qformer.encoder.layer[0].crossattention.attention
    own = module.forward
    module.forward = own
    assert "it has a forward of its own" in str(longreel.patch(model).left[0].left)
    del module.forward
    want, before = logits(model, given).detach(), snapshot(model)
    # on top of ours, keeping it, as accelerate's hooks do
    longreel.patch(model)
    kept = module._old_forward = module.forward
    module.forward = lambda *args, **kwargs: kept(*args, **kwargs)
    longreel.unpatch(model)
    assert torch.equal(logits(model, given), want)
    assert isinstance(kept, Replacement)
    assert not kept.calls
    module.forward = module._old_forward
    assert module.forward.__func__ is type(module).forward
    del module.forward, module._old_forward
    assert snapshot(model) == before


@pytest.mark.parametrize("name", ["llava_next_video-sdpa", "perception_lm", "llama_vid", "voco_llama"])
def test_autocast(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dtypes are the plain model's, errors within the budget that it gives."""
    monkeypatch.setattr(qformer, "_bf16_in_fp32", lambda: False)
    model, given = MODELS[name]()
    truth = logits(model, given).double()
    with torch.autocast("cpu", torch.bfloat16):
        plain = logits(model, given)
        with longreel.patch(model) as report:
            patched = logits(model, given)
            assert not report.aside
    assert patched.dtype == plain.dtype
    check(name, patched, truth, plain, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("halved", [True, False])
def test_the_faster_form(dtype: torch.dtype, halved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bf16 multiplied in fp32 has half the rate: then the model's own projections are faster."""
    monkeypatch.setattr(qformer, "_bf16_in_fp32", lambda: halved)
    model, given = MODELS["instructblip_video-sdpa"]()
    given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items()}
    with longreel.patch(model.to(dtype)) as report, torch.no_grad():
        logits(model, given)
    assert ("projecting the keys is faster" in str(report)) is (halved and dtype is torch.bfloat16)


@pytest.mark.parametrize("name", ["video_xl", "perception_lm"])
def test_sizes_alone(name: str) -> None:
    """On the meta device, as plans of sharding are made."""
    model, given = MODELS[name]()
    on_meta = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in given.items()}
    want = logits(model, given).shape
    longreel.patch(model.to("meta"))
    assert logits(model, on_meta).shape == want


def test_bad_arguments() -> None:
    model, _ = video_xl()
    for given, says in (
        ({"ops": "adaptive_pool"}, "allowed: 'auto', or a list of 'adaptive_pool'"),
        ({"ops": ["adaptive_pool", "attention"]}, "ops has 'attention'; allowed: 'adaptive_pool'"),
        ({"backend": "cudnn"}, "backend='cudnn'; allowed: None, 'cluster', 'cpu'"),
    ):
        with pytest.raises(ValueError, match=says):
            longreel.patch(model, **given)
    for call in (longreel.patch, longreel.unpatch):
        with pytest.raises(TypeError, match="model is a dict; allowed: a torch"):
            call({})  # type: ignore[arg-type]
    assert "qformer_attention has no backend 'flash'" in str(longreel.patch(llama_vid()[0], backend="flash"))


def test_voco_calls_that_are_the_models_own() -> None:
    model, given = voco_llama()
    with longreel.patch(model) as report:
        want = logits(model, given)
        assert not report.aside
        hidden, states = model.model(**given, output_hidden_states=True, return_dict=False)
        assert len(states) == 3
        assert torch.equal(states[-1], hidden)
        model.train()
        model.model.gradient_checkpointing = True
        checkpointed = logits(model, given)
        checkpointed.sum().backward()
        assert torch.equal(checkpointed, want)
        assert not report.aside
        model.eval()
        model.model(**given, use_cache=True)
        given["attention_mask"] = given["attention_mask"].flip(1)
        logits(model, given)
        model.model.layers[1].self_attn.register_forward_hook(lambda *_: None)
        given["attention_mask"] = torch.ones_like(given["attention_mask"])
        logits(model, given)
        assert [why.split(",")[0] for why in report.aside["model"]] == [
            "keys and values are to be cached",
            "padding on the right",
            "layer 1's attention has a hook or a forward of its own",
        ]
    model.model._use_sdpa = False
    assert "only its attention 'sdpa' has the VoCo mask" in str(longreel.patch(model))


def test_models_made_later(tmp_path: Path) -> None:
    plain, given = MODELS["llava_onevision-sdpa"]()
    plain.save_pretrained(tmp_path)
    want = logits(plain, given)
    longreel.register_patch_mapping(["adaptive_pool"])
    longreel.register_patch_mapping()
    try:
        loaded = type(plain).from_pretrained(tmp_path).eval()
    finally:
        longreel.unregister_patch_mapping()
    assert {type(module) for module in loaded.modules()} == {type(module) for module in plain.modules()}
    assert apart(logits(loaded, given), want) < CLOSE
    held = _held(loaded)
    assert held
    assert all(one.calls and not one.aside for one in held)
    longreel.unpatch(loaded)
    # as one that was made before
    other = type(plain).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(other, given), logits(loaded, given))
    assert [list(m.__dict__) for m in loaded.modules()] == [list(m.__dict__) for m in other.modules()]


def test_nothing_of_transformers_is_needed() -> None:
    """As in the environments of old repositories; and importing longreel loads no row of the table."""
    code = """
import sys
sys.modules["transformers"] = None
import longreel
assert "longreel.integrations.patches" not in sys.modules
from repositories import llama_vid
model, given = llama_vid()
print(longreel.patch(model))
model(**given)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "3 of 3 modules patched" in run.stdout
