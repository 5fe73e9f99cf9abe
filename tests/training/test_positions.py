"""Rows beyond a model's positions in whole runs: cut where there are no more, and read on, with a word, elsewhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from small_llama import Job, rows, write_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from sharelora.support.errors import UserError

POSITIONS = 48


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of few positions."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS, "vocab_size": len(tokenizer)}
    config = GPT2Config(**shape, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose prompts are far longer than that."""
    path = tmp_path_factory.mktemp("data") / "long.jsonl"
    longer = [{**row, "instruction": f"{row['instruction']} " * 12} for row in rows(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in longer))
    return path


def test_rows_are_cut_to_a_table_of_positions(
    job: Job, short: Path, long_rows: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ("--model_name_or_path", str(short), "--lora_modules", "c_attn")
    with caplog.at_level(logging.WARNING, "sharelora"):
        args = job(*model, "--dataset", str(long_rows), "--source_max_len", "512", "--do_eval", "--do_predict")
    assert f"train: 16 of 16 (100.0 %) rows were cut to the {POSITIONS} positions of the model" in caplog.text
    assert f"predict: 8 of 8 (100.0 %) rows were cut to the {POSITIONS} positions of the model" in caplog.text
    result = json.loads((args.output_dir / "result.json").read_text())
    splits = result["metrics"]["truncated"]["splits"]
    assert [split["beyond_positions"] for split in splits] == [16, 8, 8]
    assert max(split["longest_row"] for split in splits) == POSITIONS
    assert len((args.output_dir / "predictions.jsonl").read_text().splitlines()) == 8


def test_new_tokens_beyond_all_positions_are_refused(job: Job, short: Path, tmp_path: Path) -> None:
    flags = ("--model_name_or_path", str(short), "--do_train", "false", "--adapter", "none", "--do_predict")
    with pytest.raises(UserError, match=rf"found --max_new_tokens 60; the model has {POSITIONS} positions"):
        job(*flags, "--max_new_tokens", "60")
    assert not (tmp_path / "out").exists()


def test_computed_positions_go_on_and_that_is_said(
    job: Job, long_rows: Path, model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": POSITIONS}))
    with caplog.at_level(logging.WARNING, "sharelora"):
        args = job("--model_name_or_path", str(folder), "--dataset", str(long_rows), "--source_max_len", "512")
    assert (
        f"16 of 16 (100.0 %) rows are longer than the {POSITIONS} positions that the model was made for" in caplog.text
    )
    (split,) = json.loads((args.output_dir / "result.json").read_text())["metrics"]["truncated"]["splits"]
    assert split["longest_row"] > 100 and (split["sources_cut"], split["targets_cut"]) == (0, 0)


def test_packed_rows_may_be_longer_than_the_positions_of_their_examples(job: Job, short: Path) -> None:
    model = ("--model_name_or_path", str(short), "--lora_modules", "c_attn")
    job(*model, "--packing", "--pack_len", "120", "--source_max_len", "40", "--target_max_len", "8")
