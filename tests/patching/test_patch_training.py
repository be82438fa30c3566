"""Training steps of patched models: Trainer with gradient checkpointing, LoRA, and weights sharded over two processes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_models import CLOSE, tiny_vlms
from peft import LoraConfig, get_peft_model
from snapshot import apart, snapshot
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import longreel


def instructblip() -> tuple[nn.Module, dict[str, Tensor]]:
    """Without dropout: it would be drawn otherwise, not wrong."""
    model_class, config, given = tiny_vlms.instructblip_video()
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config.qformer_config, name, 0.0)
    config.qformer_config.num_hidden_layers = 3
    torch.manual_seed(0)
    model = tiny_vlms._widened(model_class._from_config(config, attn_implementation="sdpa"))
    return model.train(), {**given, "labels": given["input_ids"]}


def onevision() -> tuple[nn.Module, dict[str, Tensor]]:
    model, given = tiny_vlms.made(tiny_vlms.llava_onevision, "sdpa")
    return model.train(), {**given, "labels": given["input_ids"]}


class Keeping(Trainer):
    """Keeps the gradients of its step."""

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(model, *args, **kwargs)
        self.found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return loss


def step(model: nn.Module, given: dict[str, Tensor], folder: Path) -> tuple[float, dict[str, Tensor]]:
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=2, activation_checkpointing=True, report_to=[],
        remove_unused_columns=False, use_cpu=True, save_strategy="no", disable_tqdm=True, max_grad_norm=0.0,
    )  # fmt: skip
    samples = [{key: value[i] for key, value in given.items()} for i in range(2)]
    trainer = Keeping(model, arguments, train_dataset=samples)  # type: ignore[arg-type]
    loss = trainer.train().training_loss
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return loss, trainer.found


def served(report: longreel.PatchReport) -> int:
    assert not report.aside, report
    return sum(one.calls for line in report.patched for one in line.replacements)


def equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    largest = max(grad.abs().max().item() for grad in want.values())
    for name, grad in want.items():
        unit = max(grad.abs().max().item(), 1e-3 * largest)
        assert (got.get(name, torch.zeros(())) - grad).abs().max().item() < 1e-4 * unit, name


@pytest.mark.parametrize("build", [instructblip, onevision])
def test_a_step_of_trainer_with_checkpointing(build: Any, tmp_path: Path) -> None:
    model, given = build()
    want, want_grads = step(model, given, tmp_path / "plain")
    model, given = build()
    report = longreel.patch(model)
    got, got_grads = step(model, given, tmp_path / "patched")
    assert served(report) > 0
    assert got == pytest.approx(want, rel=CLOSE)
    equal(got_grads, want_grads)


def lora(model: nn.Module, *names: str) -> nn.Module:
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=list(names), init_lora_weights=False))
    return adapted.train()


def stepped(model: nn.Module, given: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    loss = model(**given).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("names", [("q_proj", "v_proj"), ("key", "value", "q_proj")], ids=["decoder", "qformer"])
@pytest.mark.parametrize("first", [True, False], ids=["patched-first", "adapted-first"])
def test_lora(names: tuple[str, ...], first: bool) -> None:
    model, given = instructblip()
    want, want_grads = stepped(lora(model, *names), given)
    model, given = instructblip()
    report = longreel.patch(model) if first else None
    model = lora(model, *names)
    report = report or longreel.patch(model)
    got, got_grads = stepped(model, given)
    assert apart(got, want) < CLOSE
    assert want_grads
    assert all("lora" in name for name in want_grads)
    equal(got_grads, want_grads)
    if "key" not in names:
        assert served(report) == 2
    elif first:
        assert {n for reasons in report.aside.values() for n in reasons.values()} == {1}
    else:
        assert len(report.left) == 2
        assert "key is peft's Linear, whose weight is not all that it computes" in str(report)
    # merged, it is a matrix again
    merged = model.merge_and_unload()
    longreel.unpatch(merged)
    before, plain = snapshot(merged), merged.eval()(**given).logits
    with longreel.patch(merged) as whole:
        assert apart(merged(**given).logits, plain) < CLOSE
        assert served(whole) == 2
    merged.train()
    assert snapshot(merged) == before


def test_sharded_over_two_processes(tmp_path: Path) -> None:
    """FSDP: weights are whole while a layer computes, and are read then."""
    command = [sys.executable, "sharded_process.py"]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], cwd=Path(__file__).parent, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank, process in enumerate(running):
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        assert out.strip() == f"equal {rank}"
