"""NLG/gpt2_beam.py: what it finds, writes, goes on from, and refuses."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import FULL, full
from peft import LoraConfig, get_peft_model
from toy import make_model, make_tokenizer

from sharelora import ShareLoraConfig
from sharelora.evaluation.beam import job
from sharelora.evaluation.beam.arguments import parse
from sharelora.evaluation.beam.inputs import end_tokens, load_prompts
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.reference import reference_search
from sharelora.models.load import load_base, load_tokenizer
from sharelora.support.errors import UserError, run_main

INPUTS = ("name : fox", "name : wolf | Type : plum", "name : iron | food : apple | near : the drum", "Type : hat")
# Rows of one input stand together or apart, as they come.
ROWS = [0, 0, 1, 2, 0, 3, 2]
SEARCH = ("--beam", "3", "--eval_len", "8", "--length_penalty", "0.8", "--seq_len", "96")

Go = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model("gpt2").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "test.txt"
    file.write_text("".join(f"{INPUTS[row]}||A text {number} .\n" for number, row in enumerate(ROWS)))
    return file


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def go(model: Path, data: Path, out: Path) -> Go:
    """Decode with more flags; returns what was measured."""

    def run(*flags: str, bare: bool = True) -> dict[str, Any]:
        base = ["--model_name_or_path", str(model), "--adapter", "none"] if bare else []
        return job.run(parse([*base, "--data", str(data), "--work_dir", str(out), "--dtype", "fp64", *SEARCH, *flags]))

    return run


def predictions(folder: Path, name: str = "predictions.jsonl") -> list[tuple[int, tuple[int, ...]]]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [(row["id"], tuple(row["predict"])) for row in rows]


def save_adapter(model: Path, folder: Path, kind: str = "share") -> Path:
    common = {"r": 2, "lora_alpha": 8, "target_modules": ["c_attn"], "fan_in_fan_out": True, "init_lora_weights": False}
    config = ShareLoraConfig(share="a", **common) if kind == "share" else LoraConfig(**common)
    torch.manual_seed(3)
    adapted = get_peft_model(load_base(str(model)), config)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


# What it finds and writes


def test_every_row_gets_the_text_of_its_input_and_each_input_is_decoded_once(go: Go, model: Path, out: Path) -> None:
    metrics = go()
    found = predictions(out)
    assert [row for row, _ in found] == list(range(len(ROWS)))
    base, tokenizer = load_base(str(model)).double(), load_tokenizer(str(model))
    settings = BeamSettings((tokenizer.eos_token_id,), beam=3, eval_len=8, length_penalty=0.8)
    prompts = [[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in INPUTS]
    expected = [reference_search(base, prompt, settings) for prompt in prompts]
    assert [ids for _, ids in found] == [expected[row].ids for row in ROWS]
    assert (metrics["inputs"], metrics["rows"]) == (4, 7)
    assert metrics["prompt_tokens"] == sum(map(len, prompts))
    assert metrics["score"] == pytest.approx(sum(text.score for text in expected) / 4)
    assert metrics["text_length"] == sum(len(text.ids) for text in expected) / 4


def test_the_readable_texts_are_one_line_per_input(go: Go, model: Path, out: Path) -> None:
    go()
    tokenizer = load_tokenizer(str(model))
    lines = (out / "predictions.txt").read_text().split("\n")
    first = {ROWS[row]: ids for row, ids in reversed(predictions(out))}
    texts = [tokenizer.decode(first[place]).split("</s>")[0].split("\n\n")[0].split() for place in range(4)]
    assert lines == [*(" ".join(words) for words in texts), ""]


def test_the_result_says_what_was_done(go: Go, out: Path) -> None:
    metrics = go("--output_file", "mine.jsonl", "--batch_size", "2")
    result = json.loads((out / "result.json").read_text())
    assert result["kind"] == "beam" and result["config"]["beam"] == 3 and result["config"]["adapter"] is None
    assert result["metrics"]["inputs"] == metrics["inputs"] == 4 and result["metrics"]["batch_size"] == 2
    assert result["files"]["predictions"]["path"].endswith("mine.jsonl") and result["files"]["texts"]["sha256"]
    assert result["metrics"]["tokens_per_second"] > 0 and len(predictions(out, "mine.jsonl")) == 7


def test_token_ids_are_decoded_like_their_text(go: Go, model: Path, tmp_path: Path, out: Path) -> None:
    go()
    tokenizer = load_tokenizer(str(model))
    rows = [{"context": [*tokenizer.encode(INPUTS[row]), 1], "completion": [5, 1]} for row in ROWS]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    go("--data", str(file), "--work_dir", str(tmp_path / "ids"))
    assert predictions(tmp_path / "ids") == predictions(out)


@pytest.mark.parametrize("kind", ["share", "lora"])
def test_an_adapter_brings_its_base_and_changes_the_texts(go: Go, model: Path, tmp_path: Path, kind: str) -> None:
    adapter = save_adapter(model, tmp_path / "run" / "adapter_model", kind)
    go("--work_dir", str(tmp_path / "base"))
    go("--adapter", str(tmp_path / "run"), "--work_dir", str(tmp_path / "own"), bare=False)
    go("--adapter", str(adapter), "--model_name_or_path", str(model), "--work_dir", str(tmp_path / "both"), bare=False)
    base, own, both = (predictions(tmp_path / name) for name in ("base", "own", "both"))
    assert own == both != base
    result = json.loads((tmp_path / "own" / "result.json").read_text())
    assert result["model"] == str(model) and bool(result["plan"]) is (kind == "share")
    assert result["files"]["adapter"]["path"] == str(adapter / "adapter_model.safetensors")


def test_an_input_that_is_too_long_loses_its_beginning_aloud(
    go: Go, model: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(str(model))
    whole, cut = (load_prompts(tokenizer, str(data), "test", 8 + room, 8) for room in (90, 14))
    long = [index for index, ids in enumerate(whole.ids) if len(ids) > 14]
    assert 0 < len(long) < 4 and cut.report.cut == len(long)
    assert cut.ids == [ids[-14:] for ids in whole.ids]
    with caplog.at_level(logging.INFO, "sharelora"):
        assert go("--seq_len", "22")["inputs_cut"] == len(long)
    assert f"inputs: {len(long)} of 4 rows are longer than 14 tokens" in caplog.text


def test_a_blank_line_ends_a_text_where_it_is_one_token() -> None:
    assert end_tokens(make_tokenizer(), None) == (1,)
    with_blank = make_tokenizer()
    with_blank.add_tokens(["\n\n"])
    blank = with_blank.convert_tokens_to_ids("\n\n")
    assert end_tokens(with_blank, None) == (1, blank)
    assert end_tokens(with_blank, [7, 1]) == (1, 7)


# What it goes on from


def interrupted_after(batches: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    """Run until so many batches are kept, then press the keys."""
    keep, kept = job.HypothesisStore.add, []

    def add(store: Any, new: Any) -> None:
        if len(kept) == batches:
            raise KeyboardInterrupt
        kept.append(new)
        keep(store, new)

    with monkeypatch.context() as patch:
        patch.setattr(job.HypothesisStore, "add", add)
        with pytest.raises(KeyboardInterrupt):
            run()


def test_an_interrupted_run_goes_on_with_what_is_missing(
    go: Go, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_after(2, monkeypatch, lambda: go("--batch_size", "1"))
    assert not (out / "predictions.jsonl").exists() and not (out / "result.json").exists()
    # As if the machine had stopped in the middle of a line.
    with open(out / "hypotheses.jsonl", "a") as handle:
        handle.write('{"input": 3, "sco')
    metrics = go("--batch_size", "4")
    assert metrics["inputs_found_before"] == 2 and metrics["batch_size"] == 2
    go("--work_dir", str(tmp_path / "whole"))
    assert predictions(out) == predictions(tmp_path / "whole")
    assert (out / "predictions.txt").read_bytes() == (tmp_path / "whole" / "predictions.txt").read_bytes()


def test_a_finished_run_loads_no_model_and_writes_nothing(go: Go, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = go()
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    monkeypatch.setattr(job, "load", lambda *arguments: pytest.fail("the model was loaded"))
    again = go("--batch_size", "1")
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before
    assert again["inputs_found_before"] == 4 and again["score"] == first["score"]
    (out / "predictions.txt").unlink()
    go()
    assert (out / "predictions.txt").is_file()


def test_texts_of_other_settings_are_not_mixed(go: Go, model: Path, out: Path, tmp_path: Path) -> None:
    go()
    with pytest.raises(UserError, match="was made with beam 3, this run has 2; choose another --work_dir"):
        go("--beam", "2")
    with pytest.raises(UserError, match="made with inputs 4, this run has 2"):
        go("--limit", "2")
    adapter = save_adapter(model, tmp_path / "adapter")
    with pytest.raises(UserError, match="adapter_sha256 None"):
        go("--adapter", str(adapter), bare=False)
    assert go("--beam", "2", "--limit", "2", "--overwrite")["inputs"] == 2
    assert [row for row, _ in predictions(out)] == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense\n", "is damaged .* in line 1"),
        ('{"settings": {}}\n{"input": 1}\n', "made with base None"),
    ],
)
def test_a_file_that_is_something_else(go: Go, out: Path, text: str, message: str) -> None:
    out.mkdir()
    (out / "hypotheses.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        go()


def test_a_damaged_line_is_named(go: Go, out: Path) -> None:
    go()
    file = out / "hypotheses.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], "{}", *lines[3:]]) + "\n")
    with pytest.raises(UserError, match=r"damaged \(no input in line 3\)"):
        go()


# What it refuses


def test_a_base_without_the_adapter_that_was_meant(go: Go, model: Path, tmp_path: Path) -> None:
    base = ("--model_name_or_path", str(model))
    with pytest.raises(UserError, match="found no --adapter; need the adapter that was tuned, or --adapter none"):
        go(*base, bare=False)
    with pytest.raises(UserError, match="gone not found: no such folder"):
        go(*base, "--adapter", str(tmp_path / "gone"), bare=False)
    with pytest.raises(UserError, match="found --lora_dim 4 without an adapter"):
        go(*base, "--lora_dim", "4", "--adapter", "none", bare=False)


def test_an_adapter_without_its_base(go: Go, model: Path, tmp_path: Path) -> None:
    adapter = save_adapter(model, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    for recorded, message in (
        (None, "which does not name its base"),
        (str(tmp_path / "gone"), "gone not found: no such folder"),
    ):
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": recorded}))
        with pytest.raises(UserError, match=message):
            go("--adapter", str(adapter), bare=False)


def test_an_adapter_that_is_not_what_the_flags_say(go: Go, model: Path, tmp_path: Path) -> None:
    adapter = save_adapter(model, tmp_path / "adapter")
    assert go("--adapter", str(adapter), "--lora_dim", "2", "--lora_alpha", "8", bare=False)["inputs"] == 4
    for flag, value in (("--lora_dim", "4"), ("--lora_alpha", "32")):
        with pytest.raises(UserError, match=f"found {flag} {value} but the adapter"):
            go("--adapter", str(adapter), flag, value, bare=False)
    (tmp_path / "model.26289.pt").touch()
    with pytest.raises(UserError, match="is a file; need an adapter's folder; `sharelora import"):
        go("--init_checkpoint", str(tmp_path / "model.26289.pt"), bare=False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--beam", "0"), "found --beam 0"),
        (("--batch_size", "0"), "found batch size 0"),
        (("--eos_token_id", "628"), "found end token 628; need a token below"),
        (("--eval_len", "96"), "need room for at least 2 tokens of the prompt"),
        (("--eval_len", "250", "--seq_len", "300"), "need both together within the model's context of 256"),
        (("--data", "e2f"), "found unknown data set e2f; .* did you mean e2e"),
        (("--limit", "0"), "--limit"),
        (("--no_repeat_ngram", "4"), "did you mean --no_repeat_ngram_size"),
        (("--model_card", "gpt2.md"), "found --model_card and --model_name_or_path"),
    ],
)
def test_bad_input(go: Go, out: Path, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        go(*flags)
    assert not (out / "predictions.jsonl").exists()


def test_ids_outside_the_vocabulary_and_lines_of_another_form(go: Go, tmp_path: Path) -> None:
    ids, lines = tmp_path / "test.jsonl", tmp_path / "bad.txt"
    ids.write_text('{"context": [5, 1]}\n{"context": [5, 50256]}\n')
    with pytest.raises(UserError, match="row 2 has the token id 50256 in context; the vocabulary has 0 to"):
        go("--data", str(ids))
    lines.write_text("a : b||text\na || b || c\n")
    with pytest.raises(UserError, match="line 2 has 2 separators"):
        go("--data", str(lines))


def test_upstreams_other_flags_are_dropped_aloud() -> None:
    args = parse(["--data", "e2e", "--platform", "local", "--random_seed", "110", "--beam", "10"])
    assert args.beam == 10 and len(args.notices) == 2
    assert args.notices[0] == "--platform is dropped: one process decodes, on the GPU if there is one"
    with pytest.raises(UserError, match="found no --data"):
        parse([])


def test_a_dry_run_writes_nothing(go: Go, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "load", lambda *arguments: pytest.fail("the model was loaded"))
    assert go("--dry_run") == {} and not out.exists()


def test_the_entry_point_ends_with_two(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("gpt2_beam", root / "NLG" / "gpt2_beam.py")
    assert spec is not None and spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("sys.argv", ["gpt2_beam.py", "--beam", "x"])
        run_main(command.main)
    assert end.value.code == 2 and capsys.readouterr().err.startswith("error: ")


def test_progress_has_a_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr("sharelora.reporting.progress.time.monotonic", lambda: now[0])
    tell = job.Progress("beam search", every=5, bar=8)
    with caplog.at_level(logging.INFO, "sharelora"):
        for now[0], done in ((6.0, 3), (12.0, 6)):
            tell(done, 6, 100 * done)
    assert caplog.messages == [
        "beam search [####....] 3/6  50 tokens/s  0:00:06 left",
        "beam search [########] 6/6  50 tokens/s  0:00:00 left",
    ]


def test_a_model_that_does_not_fit_into_memory_is_one_line(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.evaluation.beam.inputs.load_base", full)
    with pytest.raises(UserError, match=FULL.format("dtype bf16")):
        go()
