"""Batches: masks come from lengths, padding never hides an end token, prompts for generation end together."""

from __future__ import annotations

import torch

from sharelora.data import PredictCollator, TokenRows, TrainCollator

EOS = 9
ROWS = TokenRows([[1, 2, 3], [1]], [[4, 5, 6, EOS], [EOS]])


def test_padding_with_the_end_token_hides_no_end_token() -> None:
    batch = TrainCollator(EOS)([ROWS[0], ROWS[1]])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, EOS], [1, EOS, EOS, EOS, EOS, EOS, EOS]]
    assert batch["attention_mask"].tolist() == [[1] * 7, [1, 1, 0, 0, 0, 0, 0]]
    ignored = -100
    assert batch["labels"].tolist() == [[ignored] * 3 + [4, 5, 6, EOS], [ignored, EOS] + [ignored] * 5]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_prompts_are_padded_on_the_left_and_keep_their_columns() -> None:
    rows = [{"task_id": "T/0", "answer": "4"}, {"task_id": "T/1", "answer": "5"}]
    prompts = TokenRows([[1, 2, 3], [1]], [[], []], rows=rows)
    batch = PredictCollator(EOS)([prompts[0], prompts[1]])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [EOS, EOS, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["rows"] == rows
    assert "labels" not in batch
