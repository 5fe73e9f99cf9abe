"""Pre-training: what text is read and held out, the tokenizer, and a model that learns a little, once."""

from __future__ import annotations

import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.scores import pretrain_gpt2
from benchmarks.scores.corpus import END, encode, hold_out, make_tokenizer, read_texts, shuffled, windows
from benchmarks.scores.pretrain_gpt2 import Recipe, evaluate, make_model, train
from sharelora import UserError
from sharelora.support.reading import read_json

TEXT = "It was a dark\nnight.\r\n\r\n\r\nThe rain fell\n  in torrents.\n\n"
CLEAN = "It was a dark night.\n\nThe rain fell in torrents."


def test_folders_archives_and_files_hold_the_same_texts(tmp_path: Path) -> None:
    folder = tmp_path / "texts" / "deep"
    folder.mkdir(parents=True)
    for name in ("b.txt", "a.txt"):
        (folder / name).write_bytes((TEXT if name == "a.txt" else "Second.").encode())
    (folder / "notes.md").write_text("not read")
    with tarfile.open(tmp_path / "t.tar.xz", "w:xz") as packed:
        packed.add(folder, "novels")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    for path in (tmp_path / "texts", tmp_path / "t.tar.xz", tmp_path / "t.zip"):
        assert read_texts(path) == [CLEAN, "Second."]
    assert read_texts(folder / "a.txt") == [CLEAN]


def test_text_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no .*nowhere; need a folder or an archive"):
        read_texts(tmp_path / "nowhere")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"holds no \.txt files with text"):
        read_texts(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        read_texts(tmp_path)
    (tmp_path / "long.txt").write_bytes(random.Random(0).randbytes(100_000))
    with tarfile.open(tmp_path / "cut.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "long.txt")
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "cut.tar.gz").read_bytes()[:50_000])
    with pytest.raises(UserError, match=r"cannot read .*cut\.tar\.gz: .*; copy it again"):
        read_texts(tmp_path / "cut.tar.gz")


def test_the_end_of_every_text_is_held_out_between_paragraphs() -> None:
    texts = ["\n\n".join(f"{name}{number:02}" for number in range(20)) for name in "ab"]
    kept, held = hold_out(texts, 0.25)
    assert [text[-3:] for text in kept] == ["a14", "b14"]
    assert [text[:3] for text in held] == ["a15", "b15"]
    assert [f"{left}\n\n{right}" for left, right in zip(kept, held, strict=True)] == texts


def test_the_tokenizer_is_gpt2s_kind_and_ends_texts_with_its_last_token() -> None:
    tokenizer = make_tokenizer([CLEAN] * 3, 280, 16)
    end = tokenizer.eos_token_id
    assert tokenizer.eos_token == END and end == len(tokenizer) - 1 == 279
    strange = "naïve ☃ text\n\n  spaces"
    assert tokenizer.decode(tokenizer.encode(strange)) == strange
    tokens = encode(tokenizer, ["one", "two"])
    assert tokens[-1] == end and (tokens == end).sum() == 2
    assert tokenizer.decode(tokens) == f"one{END}two{END}"


def test_every_token_but_the_first_is_predicted_once() -> None:
    rows = windows(np.arange(11, dtype=np.int32), 3)
    assert rows.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    with pytest.raises(UserError, match="found 3 tokens of text; need more than 3"):
        windows(np.arange(3, dtype=np.int32), 3)


def test_a_pass_has_every_row_once_and_another_order_each_time() -> None:
    rows = windows(np.arange(25, dtype=np.int32), 4)
    batches = shuffled(rows, 2, seed=0)
    passes = [[int(row[0]) for _ in range(3) for row in next(batches)] for _ in range(3)]
    assert all(sorted(found) == [0, 4, 8, 12, 16, 20] for found in passes)
    assert len({tuple(found) for found in passes}) > 1
    again = shuffled(rows, 2, seed=0)
    assert [int(row[0]) for _ in range(3) for row in next(again)] == passes[0]


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=100, warmup=10, decay=0.5, learning_rate=1.0)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == rates[50] == 1.0 and rates[-1] == pytest.approx(0.02)


SMALL = Recipe(vocabulary=300, hidden=64, layers=1, length=16, rows=4, steps=30, warmup=3, held_out=0.3, dtype="fp32")


def test_the_default_is_gpt2_with_ten_million_parameters() -> None:
    recipe = Recipe()
    with torch.device("meta"):
        model = make_model(recipe, recipe.vocabulary, recipe.vocabulary - 1)
    assert 9_500_000 < model.num_parameters() < 10_500_000
    assert type(model).__name__ == "GPT2LMHeadModel" and model.config.resid_pdrop == 0.0


def test_a_model_learns_to_repeat() -> None:
    rows = windows(np.tile(np.arange(8, dtype=np.int32), 40), SMALL.length)
    model = make_model(SMALL, 300, 299)
    before = evaluate(model, rows, SMALL)
    train(model, rows, SMALL)
    assert before > 5 and evaluate(model, rows, SMALL) < 0.7 * before


def test_it_is_made_once_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:  # type: ignore[type-arg]
    corpus = tmp_path / "a.txt"
    corpus.write_text("\n\n".join(f"Paragraph {number} of a short book." for number in range(60)))
    words = (
        "--vocabulary 300 --hidden 64 --layers 1 --length 16 --rows 4 --steps 2 --warmup 1 --held_out 0.3 --dtype fp32"
    )
    monkeypatch.setattr("sys.argv", ["x", "--corpus", str(corpus), "--cache", str(tmp_path / "cache"), *words.split()])
    pretrain_gpt2.main()
    folder = Path(capsys.readouterr().out.strip())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) and model.config.eos_token_id == tokenizer.eos_token_id
    metrics = read_json(folder / "result.json")["metrics"]
    assert metrics["tokens"] == 2 * 4 * 16 and 4 < metrics["held_out_loss"] < 6.5
    written = (folder / "model.safetensors").stat().st_mtime_ns
    pretrain_gpt2.main()
    assert Path(capsys.readouterr().out.strip()) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert "held-out loss" in pretrain_gpt2.describe(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps 0", "found --steps 0"),
        ("--hidden 100", "need a multiple of 64"),
        ("--vocabulary 100", "need 300 for all bytes"),
        ("--held_out 1", "parts between 0 and 1"),
    ],
)
def test_a_recipe_that_no_model_can_have(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pretrain_gpt2.recipe_of(pretrain_gpt2.arguments(["--corpus", "x", *words.split()]))
