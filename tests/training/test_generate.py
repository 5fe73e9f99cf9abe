"""Predictions: whole answers in the order of the data, whatever the batches are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_llama import rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharelora.data import DataArguments, DataModule, build_data
from sharelora.training.instructions.options import GenerationArguments
from sharelora.training.instructions.predictions import predict, write_predictions


@pytest.fixture
def data(model_folder: Path, tmp_path: Path) -> DataModule:
    """Prompts of very different lengths, without answers."""
    prompts = [{"input": row["instruction"] * (1 + i % 3)} for i, row in enumerate(rows(7))]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    args = DataArguments(dataset=str(file), dataset_format="input-output", source_max_len=80)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    return build_data(tokenizer, args, need_train=False, need_eval=False, need_predict=True)


def answers(folder: Path, data: DataModule, batch: int, **flags: object) -> list[dict[str, str]]:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight *= 20  # a random model is undecided, and rounding would decide
    config = GenerationArguments(max_new_tokens=6, **flags).config(tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert data.predict is not None
    return predict(model, tokenizer, data.predict, data.predict_collator, config, batch, seed=1)


def test_padding_changes_no_greedy_answer(model_folder: Path, data: DataModule) -> None:
    """With padding on the right, as upstream generates, the answers of a batch differ from those of single prompts."""
    alone, together = answers(model_folder, data, 1), answers(model_folder, data, 4)
    assert alone == together
    assert [row["input"] for row in alone] == [row["input"] for row in data.splits.test]
    assert len({row["prediction"] for row in alone}) > 1


def test_the_prompt_is_cut_off_by_its_tokens(model_folder: Path, data: DataModule) -> None:
    for row in answers(model_folder, data, 3):
        assert row["prediction_with_input"] == row["input"] + row["prediction"]


def test_drawn_answers_depend_on_the_seed_alone(model_folder: Path, data: DataModule) -> None:
    flags = {"do_sample": True, "temperature": 5.0}
    drawn = answers(model_folder, data, 4, **flags)
    assert drawn == answers(model_folder, data, 4, **flags) != answers(model_folder, data, 4)


def test_the_head_reads_the_last_position_of_each_text(
    model_folder: Path, data: DataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, seen = answers(model_folder, data, 4), set()
    vocabulary, forward = len(AutoTokenizer.from_pretrained(model_folder)), torch.nn.Linear.forward

    def watched(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        logits = forward(self, x)
        if self.out_features == vocabulary:
            seen.add((logits.dim(), len(logits)))
        return logits

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    assert answers(model_folder, data, 4) == expected
    assert {dimensions for dimensions, _ in seen} == {2} and max(rows for _, rows in seen) == 4


def test_beams_and_their_settings_are_used(model_folder: Path, data: DataModule) -> None:
    assert answers(model_folder, data, 4, num_beams=3, length_penalty=2.0, no_repeat_ngram_size=2)


def test_predictions_are_one_object_per_line(tmp_path: Path) -> None:
    path = write_predictions(tmp_path, [{"input": "é\n", "prediction": "x"}, {"input": "b", "prediction": ""}])
    assert [json.loads(line)["prediction"] for line in path.read_text("utf-8").splitlines()] == ["x", ""]
