"""What watches a run."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, TrainerState

from sharelora import ShareLoraConfig, UserError
from sharelora.trainer.callbacks import Progress, gradient_norms, require_gradients, shared_matrices


def adapted(share: str = "a") -> nn.Module:
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2
    )
    return get_peft_model(LlamaForCausalLM(config), ShareLoraConfig(r=2, share=share, target_modules=["q_proj"]))


def backward(model: nn.Module) -> None:
    ids = torch.arange(12).view(2, 6)
    model(input_ids=ids, labels=ids).loss.backward()


def test_every_trainable_matrix_needs_a_gradient() -> None:
    model = adapted()
    backward(model)
    require_gradients(model)


def test_a_matrix_without_gradient_stops_the_run() -> None:
    model = adapted()
    backward(model)
    next(p for p in model.parameters() if p.requires_grad).grad = None
    with pytest.raises(UserError, match=r"1 of 4 trainable matrices, first .*lora_bank.* got no gradient"):
        require_gradients(model)
    with pytest.raises(UserError, match="the model got no gradient"):
        require_gradients(model.requires_grad_(False))


def test_the_time_left_is_reckoned_from_the_first_update_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An evaluation before the first update, however long, is not spread over the updates."""
    now, shown, state = [0.0], Progress(), TrainerState(global_step=0, max_steps=20, is_world_process_zero=True)
    monkeypatch.setattr("sharelora.trainer.callbacks.time.monotonic", lambda: now[0])
    caplog.set_level("INFO", logger="sharelora")
    shown.on_log(None, state, None, {"eval_loss": 1.0})
    for now[0], state.global_step in ((600.0, 0), (601.0, 1), (602.0, 2)):
        shown.on_step_begin(None, state, None)
    shown.on_log(None, state, None, {"loss": 1.0})
    assert caplog.messages[-1].endswith("0:00:18 left")


def test_the_norm_of_a_shared_matrix_is_that_before_clipping() -> None:
    model = adapted()
    for matrix in shared_matrices(model).values():
        nn.init.normal_(matrix)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_B" in name:
            nn.init.normal_(parameter)
    backward(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    (name, matrix), *others = shared_matrices(model).items()
    assert not others and "lora_A/self_attn/q_proj/*" in name
    assert matrix.grad is not None
    before = float(matrix.grad.norm())
    total = torch.nn.utils.clip_grad_norm_(trained, before / 10)
    assert float(matrix.grad.norm()) < before / 5
    found = gradient_norms(shared_matrices(model), total, clip=before / 10)
    assert found == {f"grad_norm/{name}": pytest.approx(before, rel=1e-4)}


def test_lora_has_no_shared_matrix() -> None:
    assert shared_matrices(adapted("none")) == {}
    assert shared_matrices(nn.Linear(2, 2)) == {}
    assert gradient_norms({}, 1.0, 0.3) == {}
