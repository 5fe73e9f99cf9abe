"""Tiny random models and batches for the tests of the core."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from sharelora import ShareLoraConfig

VOCABULARY = 48
QKV = ["q_proj", "k_proj", "v_proj"]
QV = ["q_proj", "v_proj"]


def llama(layers: int = 3, seed: int = 0, hidden: int = 32, **settings: Any) -> LlamaForCausalLM:
    """A llama with grouped-query attention: the outputs of q are twice as wide as those of k and v."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            **{
                "vocab_size": VOCABULARY,
                "hidden_size": hidden,
                "intermediate_size": 2 * hidden,
                "num_hidden_layers": layers,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
                "bos_token_id": 0,
                "eos_token_id": 1,
                **settings,
            }
        )
    )


def gpt2(layers: int = 2) -> GPT2LMHeadModel:
    """A GPT-2 without dropout."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=layers,
        n_head=4,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=1,
        **{name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")},
    )
    return GPT2LMHeadModel(config)


def neox(layers: int = 2) -> GPTNeoXForCausalLM:
    """A GPT-NeoX: every head has its q, k and v in one fused module."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    return GPTNeoXForCausalLM(config)


def phi3(layers: int = 2) -> Phi3ForCausalLM:
    """A Phi-3 with grouped queries: q has 32 outputs of the fused module, k and v have 8 each."""
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        intermediate_size=48,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Phi3ForCausalLM(config)


def roberta(layers: int = 2) -> RobertaForSequenceClassification:
    """A RoBERTa classifier without dropout."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return RobertaForSequenceClassification(config)


def tokens(rows: int = 2, length: int = 7, seed: int = 1) -> Tensor:
    """A batch of token ids without special tokens."""
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def language_batch(seed: int = 1) -> dict[str, Tensor]:
    """Inputs of a causal language model, its targets among them."""
    ids = tokens(seed=seed)
    return {"input_ids": ids, "labels": ids}


def class_batch() -> dict[str, Tensor]:
    """Inputs of a classifier."""
    return {"input_ids": tokens(4), "labels": torch.tensor([0, 1, 1, 0])}


def adapted(base: nn.Module, seed: int = 0, **settings: Any) -> PeftModel:
    """A ShareLoRA model of rank 4 on q and v, with matrices drawn from `seed`."""
    torch.manual_seed(seed)
    return get_peft_model(base, ShareLoraConfig(**{"r": 4, "target_modules": QV, **settings}))


def bank(model: PeftModel, adapter: str = "default") -> nn.ParameterDict:
    """All matrices of an adapter by name."""
    return model.base_model.lora_bank[adapter]


def shake(model: nn.Module, seed: int = 5, part: str = "lora_") -> nn.Module:
    """Give every adapter weight a value, those included that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            if part in name:
                value.add_(torch.randn(value.shape, generator=generator).to(value) * 0.2)
    return model


@torch.no_grad()
def logits(model: nn.Module, **inputs: Any) -> Tensor:
    """Logits in eval mode, the mode being restored."""
    training = model.training
    model.eval()
    found = model(**(inputs or {"input_ids": tokens()})).logits
    model.train(training)
    return found


def gradients(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one backward pass by parameter name."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def train(model: nn.Module, batch: dict[str, Tensor], steps: int, rate: float = 1e-2) -> list[float]:
    """Train on one batch with AdamW and return the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def checkpoint_layers(model: PeftModel, reentrant: bool = False) -> None:
    """Turn on activation checkpointing under the name that this version of transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
