"""One of two processes over which a patched model is sharded: prints what it found. RANK and a folder are its arguments."""

import sys

import torch
import torch.distributed as dist
from repositories import llama_vid
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import longreel


def gradients(model: nn.Module, given: dict) -> tuple[float, dict[str, Tensor]]:
    loss = model(**given).pow(2).mean()
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.item(), {name: getattr(grad, "full_tensor", lambda grad=grad: grad)() for name, grad in found.items()}


def shard(model: nn.Module) -> None:
    for layer in model.model.vlm_att_encoder.bert.encoder.layer:
        fully_shard(layer)
    fully_shard(model)


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    plain, given = llama_vid()
    torch.manual_seed(0)
    model, _ = llama_vid()
    want, want_grads = gradients(plain, given)
    report = longreel.patch(model)
    shard(model)
    # before the first gather the weights are no matrices
    late = longreel.patch(model, backend="reference")
    assert {line.left for line in late.left if "tensor of another kind" in str(line.left)}, late
    assert not late.patched
    got, got_grads = gradients(model, given)
    assert abs(got - want) < 1e-5 * abs(want), (got, want)
    for name, grad in want_grads.items():
        other = got_grads.get(name, torch.zeros(()))
        unit = max(grad.abs().max().item(), 1e-3)
        assert (other - grad).abs().max().item() < 1e-4 * unit, name
    assert len(report.patched) == 3
    assert not report.aside, report
    assert all(one.calls for line in report.patched for one in line.replacements)
    longreel.unpatch(model)
    assert abs(model(**given).pow(2).mean().item() - want) < 1e-5 * abs(want)
    print("equal", rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
