"""From flags to batches in one call, and through a real Trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_data import alpaca_rows, byte_tokenizer
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from sharelora.data import DataArguments, DataModule, PackedRows, TokenRows, build_data
from sharelora.support.errors import UserError

Write = Callable[..., Path]


@pytest.fixture
def file(write_rows: Write) -> str:
    return str(write_rows("rows.jsonl", alpaca_rows(60)))


def build(tokenizer: Any, file: str, need: dict[str, bool] | None = None, **options: Any) -> DataModule:
    return build_data(tokenizer, DataArguments(dataset=file, **options), **(need or {}))


def test_the_same_flags_give_the_same_tokens(tokenizer: Any, file: str) -> None:
    first, again, other = (build(tokenizer, file, data_seed=seed) for seed in (3, 3, 4))
    for part in ("train", "eval"):
        assert (getattr(first, part).tokens == getattr(again, part).tokens).all()
    assert first.eval is not None and other.eval is not None
    assert first.eval.tokens.tolist() != other.eval.tokens.tolist()
    assert first.predict is None


def test_prediction_has_prompts_and_columns_and_no_labels(tokenizer: Any, tmp_path: Path, write_rows: Write) -> None:
    row = {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "c", "test": "t"}
    write_rows("humaneval/HumanEval.jsonl", [row])
    data = build_data(
        tokenizer,
        DataArguments(dataset="humaneval"),
        need_train=False,
        need_eval=False,
        need_predict=True,
        data_root=tmp_path,
    )
    assert data.train is None and data.eval is None and data.predict is not None
    [batch] = DataLoader(data.predict, batch_size=2, collate_fn=data.predict_collator)
    assert batch["rows"][0] == {**row, "input": "def f():\n", "output": "c"}
    assert tokenizer.decode(batch["input_ids"][0]) == "<s>def f():\n"
    with pytest.raises(UserError, match=r"data set humaneval from .* has rows for test; need rows for train"):
        build_data(tokenizer, DataArguments(dataset="humaneval"), data_root=tmp_path)


def test_validation_rows_are_predicted_where_there_is_no_test_split(tokenizer: Any, file: str) -> None:
    data = build(tokenizer, file, {"need_predict": True}, eval_dataset_size=6)
    assert data.predict is not None and data.predict.rows == data.splits.eval


def test_no_validation_rows_are_refused_where_needed(tokenizer: Any, file: str) -> None:
    with pytest.raises(UserError, match="has rows for train; need rows for eval; pass a larger --eval_dataset_size"):
        build(tokenizer, file, eval_dataset_size=0)
    assert build(tokenizer, file, {"need_eval": False}, eval_dataset_size=0).eval is None


def test_truncation_is_one_loud_warning(tokenizer: Any, file: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    data = build(tokenizer, file, eval_dataset_size=6, source_max_len=40, target_max_len=12)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [data.report.render()] and "train: 54 of 54 (100.0 %) prompts lost their middle" in messages[0]
    caplog.clear()
    build(tokenizer, file, eval_dataset_size=6)
    assert not caplog.records


def test_a_chat_template_is_used_for_pairs_and_conversations(tokenizer: Any, file: str, write_rows: Write) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    chat = str(write_rows("chat.jsonl", [{"messages": turns}] * 4))
    data = build(tokenizer, chat, chat_template="chatml", eval_dataset_size=1)
    assert isinstance(data.train, TokenRows)
    text = "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|></s>"
    assert tokenizer.decode(data.train.ids(0)) == text
    learnt = data.train.labels(0)
    assert tokenizer.decode(learnt[learnt != -100]) == "Hello<|im_end|></s>"
    pairs = build(tokenizer, file, chat_template="chatml")
    assert isinstance(pairs.train, TokenRows) and "user\nCount to" in tokenizer.decode(pairs.train.ids(0))
    with pytest.raises(UserError, match="no chat template"):
        build(tokenizer, chat)


def test_only_training_rows_are_packed(tokenizer: Any, file: str) -> None:
    data = build(tokenizer, file, packing=True, eval_dataset_size=6)
    assert isinstance(data.train, PackedRows) and isinstance(data.eval, TokenRows)
    assert max(data.train.lengths) <= 1024 + 256
    short = build(tokenizer, file, packing=True, eval_dataset_size=6, pack_len=300)
    assert (
        isinstance(short.train, PackedRows) and len(short.train) > len(data.train) and max(short.train.lengths) <= 300
    )


def fit(data: DataModule, folder: Path, batch: int) -> tuple[float, float]:
    """Loss of the one optimisation step that sees everything, and the evaluation loss before it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=400, **sizes))
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=batch,
        max_steps=1,
        logging_steps=1,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        train_sampling_strategy="group_by_length",
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model, arguments, train_dataset=data.train, eval_dataset=data.eval, data_collator=data.train_collator
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), before


def test_a_trainer_gets_the_same_loss_packed_and_unpacked(file: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(pad="<pad>")
    plain, packed = (build(tokenizer, file, eval_dataset_size=6, packing=packing, pack_len=300) for packing in (0, 1))
    assert plain.train is not None and packed.train is not None
    one, before = fit(plain, tmp_path, len(plain.train))
    other, same = fit(packed, tmp_path, len(packed.train))
    assert one == pytest.approx(other, rel=1e-4) and before == pytest.approx(same, rel=1e-6)
