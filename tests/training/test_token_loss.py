"""The loss that never makes the logits: it is the model's own loss, in value and gradient, for every kind of head."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.hooks import attach_align_device_hook
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel, TrainingArguments

from sharelora import ShareLoraConfig
from sharelora.models.chunks import CHUNK_BYTES, chunk_rows
from sharelora.models.head import (
    Scaling,
    dense_head,
    reference_losses,
    scaling_of,
    target_losses,
)
from sharelora.trainer.token_loss import sums_by_row
from sharelora.training.trainer import ShareTrainer

SMALL = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = torch.randint(3, 120, (3, 11), generator=torch.Generator().manual_seed(0))
LABELS = IDS.masked_fill(torch.arange(11) < torch.tensor([[4], [7], [2]]), -100)
SCALINGS = [Scaling(), Scaling(0.25), Scaling(1.0, 3.0), Scaling(2.0, 5.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fast", [True, False])
def test_in_chunks_it_is_the_cross_entropy_of_all_logits(
    dtype: torch.dtype, scaling: Scaling, smoothing: float, bias: bool, fast: bool
) -> None:
    torch.manual_seed(0)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    hidden = torch.randn(37, 16, dtype=dtype, requires_grad=True)
    targets, weights = torch.randint(0, 50, (37,)), torch.rand(37)
    head = nn.Linear(16, 50, bias=bias).to(dtype).requires_grad_(False)
    expected = reference_losses(hidden, targets, head, scaling, smoothing)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), hidden)
    dense = dense_head(head, hidden.device) if fast else None
    assert (dense is not None) == fast
    losses = target_losses(hidden, targets, head, dense, scaling, smoothing, rows=8)
    (made,) = torch.autograd.grad((losses * weights).sum(), hidden)
    torch.testing.assert_close(losses, expected, **tolerance)
    torch.testing.assert_close(made, gradient, **tolerance)


def test_a_chunk_is_chosen_from_the_vocabulary() -> None:
    assert [chunk_rows(vocab) for vocab in (32_000, 128_256, 262_144)] == [1344, 320, 128]
    assert chunk_rows(262_144) * 262_144 * 12 <= CHUNK_BYTES


def _small(kind: str, **changes: Any) -> PreTrainedModel:
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, f"{kind}ForCausalLM")(config)
    for name, parameter in model.named_parameters():  # so that biases and norms matter
        if parameter.dim() == 1:
            nn.init.normal_(parameter.data, mean=float("norm" in name), std=0.2)
    return model


def _gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 32,
        "embd_pdrop": 0,
        "resid_pdrop": 0,
        "attn_pdrop": 0,
    }
    config = transformers.GPT2Config(vocab_size=120, bos_token_id=1, eos_token_id=2, **sizes)
    return transformers.GPT2LMHeadModel(config)


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "untied": lambda: _small("Llama"),
    "tied": lambda: _small("Llama", tie_word_embeddings=True),
    "bias": lambda: _small("Phi"),
    "soft-capping": lambda: _small("Gemma2", final_logit_softcapping=0.5),
    "multiplied": lambda: _small("Cohere", logit_scale=0.3),
    "divided": lambda: _small("Granite", logits_scaling=3.0),
    "GPT-2": _gpt2,
}
QUERY = {"GPT-2": ["c_attn"]}


def _adapted(model: PreTrainedModel, targets: list[str], **settings: Any) -> Any:
    adapted = get_peft_model(model, ShareLoraConfig(r=4, share="a", target_modules=targets, **settings))
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad and parameter.dim() == 2:
            nn.init.normal_(parameter.data, std=0.1)
    return adapted


def _trainer(model: Any, folder: Path, **settings: Any) -> ShareTrainer:
    return ShareTrainer(
        model=model, args=TrainingArguments(str(folder), use_cpu=True, report_to=[], disable_tqdm=True, **settings)
    )


def _step(trainer: ShareTrainer, labels: Tensor = LABELS, count: int | None = 50) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and the gradient of everything that is trained."""
    model: Any = trainer.model
    model.train()
    model.zero_grad()
    loss: Tensor = trainer.compute_loss(model, {"input_ids": IDS, "labels": labels}, num_items_in_batch=count)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def _compare(trainer: ShareTrainer, **batch: Any) -> None:
    """The loss without logits is that with them, in value and in every gradient."""
    assert trainer.token_loss is not None
    for _ in range(2):  # the first batch also looks at what the model does to its logits
        loss, gradients = _step(trainer, **batch)
    assert trainer.token_loss is not None, "it fell back"
    trainer.token_loss = None
    expected, expected_gradients = _step(trainer, **batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert set(gradients) == set(expected_gradients) != set()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_head(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family]().eval()
    # The model's own loss, from all of its logits.
    own = model(input_ids=IDS, labels=LABELS, num_items_in_batch=50).loss
    trainer = _trainer(_adapted(model, QUERY.get(family, ["q_proj", "v_proj"])), tmp_path)
    with trainer.model.disable_adapter():  # type: ignore[union-attr,operator]
        torch.testing.assert_close(_step_without_gradient(trainer), own.detach(), rtol=1e-5, atol=1e-6)
    _compare(trainer)


def _step_without_gradient(trainer: ShareTrainer) -> Tensor:
    with torch.no_grad():
        loss: Tensor = trainer.compute_loss(trainer.model, {"input_ids": IDS, "labels": LABELS}, num_items_in_batch=50)
    assert trainer.token_loss is not None, "it fell back"
    return loss


@pytest.mark.parametrize(
    ("targets", "settings"),
    [
        (["q_proj", "lm_head"], {}),
        (["q_proj"], {"modules_to_save": ["lm_head"]}),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_adapted_or_trained_head(
    targets: list[str], settings: dict[str, Any], dropout: float, tmp_path: Path
) -> None:
    trainer = _trainer(_adapted(_small("Llama"), targets, lora_dropout=dropout, **settings), tmp_path)
    if not dropout:
        _compare(trainer)
        return
    # With dropout in the head, the same random numbers give the same loss, whether the head was looked at or not.
    torch.manual_seed(5)
    first = _step(trainer)
    torch.manual_seed(5)
    second = _step(trainer)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def _in_four_bits(model: Any) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    head = bnb.nn.Linear4bit(32, 120, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    head.load_state_dict({"weight": model.lm_head.weight.data})
    model.lm_head = head.to("cpu")


def _offloaded(model: Any) -> None:
    weights = {"weight": model.lm_head.weight.data.clone()}
    attach_align_device_hook(model.lm_head, execution_device="cpu", offload=True, weights_map=weights)
    assert model.lm_head.weight.device.type == "meta"


def test_a_quantised_head(tmp_path: Path) -> None:
    adapted = _adapted(_small("Llama"), ["q_proj"])
    _in_four_bits(adapted.get_base_model())
    _compare(_trainer(adapted, tmp_path))


def test_an_offloaded_head(tmp_path: Path) -> None:
    adapted = _adapted(_small("Llama"), ["q_proj"])
    trainer = _trainer(adapted, tmp_path)  # which moves the model to its device
    _offloaded(adapted.get_base_model())
    _compare(trainer)


@pytest.mark.parametrize("count", [None, 50])
def test_smoothing_and_means(count: int | None, tmp_path: Path) -> None:
    _compare(_trainer(_adapted(_small("Llama"), ["q_proj"]), tmp_path, label_smoothing_factor=0.2), count=count)


@pytest.mark.parametrize("count", [None, 50])
def test_rows_without_any_target(count: int | None, tmp_path: Path) -> None:
    labels = LABELS.clone()
    labels[1] = -100
    _compare(_trainer(_adapted(_small("Llama"), ["q_proj"]), tmp_path / "one"), labels=labels, count=count)
    trainer = _trainer(_adapted(_small("Llama"), ["q_proj"]), tmp_path / "all")
    loss, gradients = _step(trainer, labels=torch.full_like(LABELS, -100), count=count)
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients.values())


def test_the_balance_of_experts_is_added(tmp_path: Path) -> None:
    model = _small("Mixtral", num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.5)
    own = model(input_ids=IDS, labels=LABELS).loss
    without = model(input_ids=IDS, labels=LABELS, output_router_logits=False).loss
    trainer = _trainer(_adapted(model, ["q_proj"]), tmp_path)
    with trainer.model.disable_adapter(), torch.no_grad():  # type: ignore[union-attr,operator]
        loss = trainer.compute_loss(trainer.model, {"input_ids": IDS, "labels": LABELS})
    torch.testing.assert_close(loss, own.detach(), rtol=1e-5, atol=1e-6)
    assert own - without > 0.1


class _Strange(transformers.LlamaForCausalLM):
    """It does something to its logits that no table knows."""

    def forward(self, *args: Any, labels: Any = None, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits.flip(-1)
        return output


class _Twice(transformers.LlamaForCausalLM):
    """It asks its head twice."""

    def forward(self, *args: Any, labels: Any = None, **kwargs: Any) -> Any:
        super().forward(*args, **kwargs)
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("kind", [_Strange, _Twice])
def test_a_model_that_is_not_known_falls_back_and_says_so_once(
    kind: type[PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = kind(transformers.LlamaConfig(**SMALL))
    caplog.set_level(logging.INFO)
    trainer = _trainer(_adapted(model, ["q_proj"], lora_dropout=0.3), tmp_path)
    torch.manual_seed(3)
    loss, _ = _step(trainer)
    assert trainer.token_loss is None
    torch.manual_seed(3)
    again, _ = _step(trainer)
    assert loss == again  # the random numbers of the first try were put back
    told = [record.getMessage() for record in caplog.records if "all logits" in record.getMessage()]
    assert len(told) == 1, told
    with trainer.model.disable_adapter(), torch.no_grad():  # type: ignore[union-attr,operator]
        logits = model(input_ids=IDS).logits
        own = trainer.compute_loss(trainer.model, {"input_ids": IDS, "labels": LABELS})
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), LABELS[:, 1:].flatten())
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)


def test_an_evaluation_adds_up_rows_and_does_not_smooth(tmp_path: Path) -> None:
    trainer = _trainer(_adapted(_small("Gemma2"), ["q_proj"]), tmp_path, label_smoothing_factor=0.2)
    model: Any = trainer.model
    model.eval()
    for _ in range(2):
        trainer._nll.zero_()
        trainer.prediction_step(model, {"input_ids": IDS, "labels": LABELS}, True)
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), LABELS[:, 1:], reduction="none")
    assert trainer._nll[0].item() == pytest.approx(losses.sum().item(), rel=1e-5)
    assert trainer._nll[1].item() == (LABELS[:, 1:] != -100).sum()
    torch.testing.assert_close(sums_by_row(losses[LABELS[:, 1:] != -100], LABELS), losses.sum(1))


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that is made, views of weights aside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.size = 0
        self.weights = {parameter.data_ptr() for parameter in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, Tensor) and each.data_ptr() not in self.weights:
                self.size = max(self.size, each.numel())
        return made


def test_the_logits_are_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.trainer.token_loss.chunk_rows", lambda vocab: 4)
    trainer = _trainer(_adapted(_small("Llama", vocab_size=3000), ["q_proj"]), tmp_path)
    _step(trainer)
    with _Largest(trainer.model) as seen:
        _step(trainer)
    assert seen.size == 4 * 3000
    trainer.token_loss = None
    with _Largest(trainer.model) as seen:
        _step(trainer)
    assert seen.size == IDS.numel() * 3000


def test_a_compiled_model_and_copies_on_several_devices_make_their_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(_adapted(_small("Llama"), ["q_proj"]), tmp_path)
    monkeypatch.setattr(trainer.args, "torch_compile", True)
    assert trainer._needs_logits() == "the model is compiled"
    monkeypatch.setattr(trainer.args, "torch_compile", False)
    assert trainer._needs_logits() is None


def test_what_a_model_does_to_its_logits_is_read_from_its_configuration() -> None:
    assert scaling_of(transformers.GraniteConfig(logits_scaling=8.0)) == Scaling(0.125)
    assert scaling_of(transformers.CohereConfig(logit_scale=0.0625)) == Scaling(0.0625)
    assert scaling_of(transformers.Gemma2Config()) == Scaling(1.0, 30.0)
    assert scaling_of(transformers.HyperCLOVAXConfig(logits_scaling=0.25)) == Scaling(0.25)
    assert scaling_of(transformers.LlamaConfig()) == Scaling()
