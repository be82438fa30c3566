"""nn.ContextAttention computes with its projections as they are: in evaluation as in training, whatever was done to them."""

import copy
import io
from collections.abc import Callable

import accelerate
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from test_context_attention import WIDTHS, inputs, module, published
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune
from weight_changes import Lora

from longreel.backends import BackendError
from longreel.nn import ContextAttention, context_attention

pytestmark = pytest.mark.fast

Change = Callable[[ContextAttention], object]


def noise(like: Tensor) -> Tensor:
    return torch.randn_like(like, requires_grad=False)


def projections(m: ContextAttention) -> list[nn.Linear]:
    assert m.vlm_att_projector is not None
    return [m.vlm_att_projector, m.vlm_att_key_projector]


def fused_steps(m: ContextAttention) -> None:
    optimizer = torch.optim.AdamW(m.parameters(), 1e-2, fused=True)
    for _ in range(3):
        m(*inputs()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def in_place(m: ContextAttention) -> None:
    with torch.no_grad():
        for linear in projections(m):
            linear.weight.mul_(2)
            linear.bias.add_(1)


def data_written(m: ContextAttention) -> None:
    for linear in projections(m):
        linear.weight.data.add_(noise(linear.weight))


def data_replaced(m: ContextAttention) -> None:
    for linear in projections(m):
        linear.weight.data = noise(linear.weight)


def parameter_replaced(m: ContextAttention) -> None:
    for linear in projections(m):
        linear.weight = nn.Parameter(noise(linear.weight))


def in_inference_mode(m: ContextAttention) -> None:
    with torch.inference_mode():
        m.vlm_att_key_projector.weight.mul_(2)


def by_numpy(m: ContextAttention) -> None:
    m.vlm_att_key_projector.weight.detach().numpy()[:] *= 2


def averaged(m: ContextAttention) -> None:
    """An exponential moving average takes the place of the weights."""
    for own, average in zip(m.parameters(), module().parameters(), strict=True):
        own.data.lerp_(average.data, 0.5)


def loaded(m: ContextAttention) -> None:
    m.load_state_dict(module().state_dict())


def assigned(m: ContextAttention) -> None:
    m.load_state_dict(module().state_dict(), assign=True)


def flattened(m: ContextAttention) -> None:
    parameters = list(m.parameters())
    nn.utils.vector_to_parameters(noise(nn.utils.parameters_to_vector(parameters)), parameters)


CHANGES: list[Change] = [
    fused_steps, in_place, data_written, data_replaced, parameter_replaced, in_inference_mode, by_numpy, averaged, loaded,
    assigned, flattened,
]  # fmt: skip


class Coded(Tensor):
    """A weight that a Linear's product reads otherwise than its elements stand, as quantised ones are."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is not F.linear:
            return super().__torch_function__(func, types, args, kwargs or {})
        return func(*(a.as_subclass(Tensor) * 3 if isinstance(a, Coded) else a for a in args), **kwargs or {})


class Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def adapter(m: ContextAttention, name: str) -> None:
    setattr(m, name, Lora(getattr(m, name)))


def forward_hook(m: ContextAttention, name: str) -> None:
    getattr(m, name).register_forward_hook(lambda module, given, out: out * out.cos())


def pre_hook(m: ContextAttention, name: str) -> None:
    getattr(m, name).register_forward_pre_hook(lambda module, given: (given[0].sin(),))


def own_forward(m: ContextAttention, name: str) -> None:
    linear, forward = getattr(m, name), getattr(m, name).forward
    linear.forward = lambda x: 2 * forward(x)


def parametrized(m: ContextAttention, name: str) -> None:
    parametrize.register_parametrization(getattr(m, name), "weight", Twice())


def weight_norm(m: ContextAttention, name: str) -> None:
    parametrizations.weight_norm(getattr(m, name))
    getattr(m, name).parametrizations.weight.original0.data.mul_(3)


def old_weight_norm(m: ContextAttention, name: str) -> None:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(getattr(m, name))
    # the weight itself follows at the next call only
    getattr(m, name).weight_g.data.mul_(3)


def pruned(m: ContextAttention, name: str) -> None:
    prune.random_unstructured(getattr(m, name), "weight", amount=0.5)
    getattr(m, name).weight_orig.data.mul_(3)


def coded(m: ContextAttention, name: str) -> None:
    linear = getattr(m, name)
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Coded), requires_grad=False)


def offloaded(m: ContextAttention, name: str) -> None:
    accelerate.cpu_offload(getattr(m, name), torch.device("cpu"))
    assert getattr(m, name).weight.is_meta


FORMS = [
    adapter, forward_hook, pre_hook, own_forward, parametrized, weight_norm, old_weight_norm, pruned, coded, offloaded,
]  # fmt: skip


def agrees(m: ContextAttention, compress: str | None = "grid:2") -> None:
    """Evaluation is the training forward to the bit, and both are the released order with the projections called."""
    text, patches = inputs()
    trained, expected = m(text, patches), published(m, text, patches, compress)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(m(text, patches), trained)
    torch.testing.assert_close(trained, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights(change: Change) -> None:
    m = module()
    with torch.no_grad():
        before = m(*inputs())
    change(m)
    agrees(m)
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.allclose(m(*inputs()), before), "the change must be one that matters"


@pytest.mark.parametrize(
    "name", ["vlm_att_projector", "vlm_att_key_projector", "vlm_att_val_projector", "mm_projector.0"]
)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_projections_that_are_more_than_their_weight(
    form: Callable[[nn.Module, str], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = module()
    room, _, last = name.rpartition(".")
    form(m.get_submodule(room), last)
    agrees(m)
    text, patches = inputs(frames=7)
    mask = torch.rand(7, 5) < 0.7
    whole = m(text, patches, mask)
    monkeypatch.setitem(context_attention.FRAMES_AT_ONCE, "cpu", 2)
    with torch.no_grad():
        torch.testing.assert_close(m(text, patches, mask), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["vlm_att_projector", "vlm_att_key_projector"])
def test_an_adapter_is_trained(name: str) -> None:
    m = module()
    m.requires_grad_(False)
    adapter(m, name)
    text, patches = inputs()
    wanted = [p for p in m.parameters() if p.requires_grad]
    assert len(wanted) == 2
    loss = (m(text, patches).square().sum(), published(m, text, patches, "grid:2").square().sum())
    for ours, theirs in zip(*(torch.autograd.grad(value, wanted) for value in loss), strict=True):
        assert theirs.abs().max() > 1e-6
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_mask_where_keys_are_formed() -> None:
    m, (text, patches) = module("mean"), inputs()
    adapter(m, "vlm_att_key_projector")
    m.num_prefix_tokens = 1
    mask = torch.tensor([True, True, False, True, False])
    expected = published(m, text[..., mask, :], patches[:, 1:], "mean")
    torch.testing.assert_close(m(text, patches, mask), expected, rtol=1e-12, atol=1e-12)
    nothing = m(text, patches, torch.zeros(5, dtype=torch.bool))[..., 0, :]
    torch.testing.assert_close(nothing, m.vlm_att_val_projector.bias.expand_as(nothing))
    m.backend = "cpu"
    with pytest.raises(BackendError, match="vlm_att_key_projector, a Lora, needs; backend=None"):
        m(text, patches)


def test_quantised_projections() -> None:
    m = module(dtype=torch.float32)
    text, patches = inputs(dtype=torch.float32)
    with pytest.warns(DeprecationWarning, match="quantization"):
        quantised = torch.ao.quantization.quantize_dynamic(m, {nn.Linear})
    with torch.no_grad():
        torch.testing.assert_close(quantised(text, patches), published(quantised, text, patches, "grid:2"))


def test_functional_call_and_vmap() -> None:
    m, other, (text, patches) = module(), module(), inputs()
    given = dict(other.named_parameters())
    torch.testing.assert_close(torch.func.functional_call(m, given, (text, patches)), other(text, patches))
    both = torch.func.stack_module_state([m, other])[0]
    stacked = torch.vmap(lambda weights: torch.func.functional_call(m, weights, (text, patches)))(both)
    torch.testing.assert_close(stacked, torch.stack([m(text, patches), other(text, patches)]))


def test_made_empty_and_dispatched(tmp_path: object) -> None:
    source = module()
    save_file(source.state_dict(), f"{tmp_path}/model.safetensors")
    with accelerate.init_empty_weights():
        m = ContextAttention(**WIDTHS, compress="grid:2", backend="reference", dtype=torch.float64)
    m = accelerate.load_checkpoint_and_dispatch(m, f"{tmp_path}/model.safetensors", device_map={"": "cpu"})
    agrees(m)
    text, patches = inputs()
    torch.testing.assert_close(m(text, patches), source(text, patches))


def test_made_on_meta() -> None:
    source = module()
    m = ContextAttention(**WIDTHS, compress="grid:2", backend="reference", device="meta", dtype=torch.float64)
    m.load_state_dict(source.state_dict(), assign=True)
    agrees(m)
    empty = ContextAttention(**WIDTHS, compress="grid:2", device="meta", dtype=torch.float64).to_empty(device="cpu")
    empty.backend = "reference"
    empty.load_state_dict(source.state_dict())
    agrees(empty)


def test_copied_and_saved() -> None:
    m = module()
    twin = copy.deepcopy(m)
    in_place(twin)
    saved = io.BytesIO()
    torch.save(twin, saved)
    saved.seek(0)
    for one in (m, twin, torch.load(saved, weights_only=False)):
        agrees(one)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("change", [fused_steps, data_written, loaded], ids=lambda change: change.__name__)
def test_compiled_code_sees_the_change(frozen: bool, change: Change) -> None:
    m, (text, patches) = module(), inputs()
    compiled = torch.compile(m, fullgraph=True, backend="aot_eager")
    m.requires_grad_(not frozen)
    with torch.no_grad():
        torch.testing.assert_close(compiled(text, patches), m(text, patches))
        with torch.enable_grad():
            m.requires_grad_()
            change(m)
            m.requires_grad_(not frozen)
        torch.testing.assert_close(compiled(text, patches), published(m, text, patches, "grid:2"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vlm_att_projector", "vlm_att_key_projector"])
def test_compiled_with_an_adapter(name: str) -> None:
    m, (text, patches) = module(), inputs()
    adapter(m, name)
    got = torch.compile(m, fullgraph=True, backend="aot_eager")(text, patches)
    torch.testing.assert_close(got, published(m, text, patches, "grid:2"))


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict: bool) -> None:
    m, (text, patches) = module(), inputs()
    exported = torch.export.export(m, (text, patches), strict=strict)
    assert "softmax" not in exported.graph_module.code or m.backend == "reference"
    torch.testing.assert_close(exported.module()(text, patches), m(text, patches))


def test_a_shard_of_a_weight_is_refused() -> None:
    m, (text, patches) = module(), inputs()
    m.vlm_att_key_projector.weight = nn.Parameter(torch.empty(0, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"weight must be \[out, in\], given \[0\]: a sharded one"):
        m(text, patches)


def test_a_hook_on_all_modules_acts() -> None:
    """torch.nn.modules.module.register_module_forward_hook, as tools register that see every module."""
    module, text, patches = ContextAttention(12, 33, 24), torch.randn(1, 1, 7, 12), torch.randn(6, 16, 33)
    for name in ("vlm_att_projector", "vlm_att_key_projector"):
        chosen, other = getattr(module, name), copy.deepcopy(module)
        handle = register_module_forward_hook(lambda m, given, out, chosen=chosen: out * 1.5 if m is chosen else None)
        got = module(text, patches)
        handle.remove()
        with torch.no_grad():
            for parameter in getattr(other, name).parameters():
                parameter.mul_(1.5)
        torch.testing.assert_close(got, other(text, patches), atol=1e-5, rtol=1e-5)
