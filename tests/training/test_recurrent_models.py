"""Models without attention heads, in whole runs: tuned, and answering the same in every batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_llama import Job, write_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from sharelora.data import PredictCollator, TokenRows
from sharelora.training.instructions.predictions import predict

SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MAMBA = {**SPECIAL, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
RWKV = {**SPECIAL, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}


@pytest.mark.slow
def test_mamba_is_tuned_and_writes(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "mamba"
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model("mamba", vocab_size=len(tokenizer), **MAMBA)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    flags = ("--model_name_or_path", str(folder), "--lora_modules", "in_proj,x_proj", "--share", "a")
    args = job(*flags, "--do_eval", "--do_predict", "--max_steps", "8", "--save_steps", "8")
    metrics = json.loads((args.output_dir / "result.json").read_text())["metrics"]
    assert metrics["eval_loss"] < metrics["eval_loss_before"] - 0.01
    assert metrics["predict_samples"] == 8


@pytest.mark.parametrize(("kind", "shape"), [("mamba", MAMBA), ("rwkv", RWKV)])
def test_a_prediction_does_not_depend_on_its_batch(kind: str, shape: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), **shape))
    prompts = [tokenizer(text)["input_ids"] for text in ("red one", "the cat likes three big dogs", "blue", "two cats")]
    rows = TokenRows(prompts, [[]] * 4, rows=[{}] * 4)
    config = GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=2, eos_token_id=1)
    together, alone = (predict(model, tokenizer, rows, PredictCollator(2), config, size, 0) for size in (4, 1))
    assert together == alone
