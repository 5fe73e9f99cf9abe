"""The real data beside the project: counts, and that no question is lost at the lengths of the scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sharelora.data import DataArguments, build_data, load_splits

pytestmark = pytest.mark.realdata

SIZES = {  # name -> train, test rows
    "alpaca": (9229, 0),
    "gsm8k": (7473, 1319),
    "codealpaca": (2017, 0),
    "hf_codealpaca": (4535, 0),
    "humaneval": (0, 164),
}


@pytest.mark.parametrize("name", SIZES)
def test_every_local_data_set_has_its_rows(name: str, shared_data: Path) -> None:
    found = load_splits(DataArguments(dataset=name, eval_dataset_size=0), shared_data)
    assert (len(found.train), len(found.test)) == SIZES[name]
    assert all(row["output"] is not None for row in found.train + found.test)


@pytest.mark.parametrize("name", ["alpaca/instruction-data-1100.json", "alpaca/dolly_3k.json.gz", "gsm8k/test.jsonl"])
def test_real_files_by_path(name: str, shared_data: Path) -> None:
    found = load_splits(DataArguments(dataset=str(shared_data / name), eval_dataset_size=0.1))
    assert len(found.eval) == round(0.1 * (len(found.train) + len(found.eval)))


@pytest.fixture
def real_tokenizer(shared_models: Path) -> Any:
    return AutoTokenizer.from_pretrained(shared_models / "tiny-llama")


def test_no_gsm8k_question_is_lost_at_512_tokens(shared_data: Path, real_tokenizer: Any) -> None:
    args = DataArguments(dataset="gsm8k", source_max_len=512, target_max_len=512)
    data = build_data(real_tokenizer, args, need_predict=True, data_root=shared_data)
    for part, rows in (
        (data.train, data.splits.train),
        (data.eval, data.splits.eval),
        (data.predict, data.splits.test),
    ):
        assert part is not None
        for index, row in list(enumerate(rows))[::25]:
            prompt = part.ids(index)[: part.source_lengths[index]]
            assert real_tokenizer.decode(prompt).endswith(row["input"])
    assert all(split.sources_cut == 0 for split in data.report.splits)
    assert data.train is not None and (data.train.tokens[data.train.ends - 1] == real_tokenizer.eos_token_id).all()
