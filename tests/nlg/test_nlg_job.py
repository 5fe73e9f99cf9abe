"""Whole runs in this process: what they train, what they leave, and what the same command does the next time."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_gpt2 import Job, ids_of, write_rows, write_tokenizer
from torch.optim.lr_scheduler import LambdaLR

from sharelora.data.nlg.convert import encode
from sharelora.support.errors import UserError
from sharelora.trainer.engines import EngineOptimizer
from sharelora.training.nlg.job import NlgArguments

LONG = "--max_step 24 --save_interval 24 --lora_dropout 0".split()


def result(args: NlgArguments, kind: str = "") -> dict[str, Any]:
    return json.loads((args.output_dir / f"result{kind}.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("share", ["none", "a", "ab"])
def test_training_lowers_the_perplexity(job: Job, share: str) -> None:
    args, metrics = job("--share", share, *LONG)
    assert metrics["eval_loss"] < metrics["eval_loss_before"] - 0.05
    assert metrics["eval_perplexity"] == pytest.approx(torch.tensor(metrics["eval_loss"]).exp().item(), rel=1e-5)
    assert result(args)["metrics"]["steps"] == metrics["steps"] == 24


def test_a_run_leaves_its_files_with_each_matrix_once(job: Job) -> None:
    args, _ = job()
    names = {path.name for path in args.output_dir.iterdir()}
    assert names == {
        *("adapter_model", "checkpoint-2", "checkpoint-4", "completed", "loss.csv", "loss.png", "metrics.json"),
        *("result.json", "settings.json"),
    }
    plan, saved = result(args)["plan"], weights(args.output_dir / "adapter_model")
    # Without --share A is shared: q and v of two layers have one A each and a B each.
    assert plan["share"] == "a" and plan["ranks"] == [4]
    assert plan["trainable"] == sum(tensor.numel() for tensor in saved.values()) == 2 * 4 * 32 + 4 * 4 * 32
    assert len(saved) == 6 and same(args.output_dir / "adapter_model", args.output_dir / "checkpoint-4")
    assert "eval_perplexity" in (args.output_dir / "loss.csv").read_text().splitlines()[0]


def test_an_interrupted_run_goes_on_bit_for_bit(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped in the second epoch, with dropout, evaluations and an optimizer of our own."""
    more = "--max_step 14 --save_interval 5 --eval_interval 3 --correct_bias false --grad_acc 2".split()
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    job("--work_dir", whole, *more)

    def fail(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sharelora.trainer.callbacks.Speed.on_step_begin", fail, raising=False)
        with pytest.raises(KeyboardInterrupt):
            job("--work_dir", broken, *more)
    with caplog.at_level(logging.INFO, "sharelora"):
        job("--work_dir", broken, *more)
    assert f"resuming from {broken}/checkpoint-5" in caplog.text
    assert same(Path(whole) / "adapter_model", Path(broken) / "adapter_model")


def test_a_finished_run_is_evaluated_not_trained_again(job: Job) -> None:
    args, first = job()
    stamp = (args.output_dir / "adapter_model" / "adapter_model.safetensors").stat().st_mtime_ns
    _, again = job()
    assert again["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-6) and "steps" not in again
    assert (args.output_dir / "adapter_model" / "adapter_model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(
        UserError, match=r"holds a run with learning_rate 0.005, this one has 0.1.*--overwrite_output_dir"
    ):
        job("--lr", "0.1")


@pytest.mark.slow
def test_an_adapter_can_be_evaluated_and_trained_on(job: Job, tmp_path: Path) -> None:
    args, first = job()
    place = ("--adapter", str(args.output_dir), "--work_dir")
    _, found = job(*place, str(tmp_path / "evaluated"))
    assert found["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-6)
    _, more = job(*place, str(tmp_path / "more"), "--do_train", *LONG)
    assert more["eval_loss_before"] == pytest.approx(first["eval_loss"], rel=1e-6)
    assert more["eval_loss"] < first["eval_loss"]


def test_rank_zero_tunes_every_weight(job: Job) -> None:
    args, metrics = job("--lora_dim", "0", "--lr", "1e-3", "--max_step", "8")
    assert metrics["eval_loss"] < metrics["eval_loss_before"] - 0.05
    assert (args.output_dir / "model" / "model.safetensors").is_file() and result(args)["plan"] == {}


@pytest.mark.slow
def test_accumulation_changes_nothing(job: Job, tmp_path: Path) -> None:
    """Unlike in LoRA's script, where warm-up and schedule count batches: here they count updates."""
    fixed = "--lora_dropout 0 --train_sampling_strategy sequential --max_step 6 --lr 1e-3".split()
    outs = [tmp_path / name for name in "ab"]
    job("--work_dir", str(outs[0]), *fixed)
    job("--work_dir", str(outs[1]), *fixed, "--train_batch_size", "2", "--grad_acc", "2")
    first, second = (weights(out / "adapter_model") for out in outs)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-6


def test_nothing_but_the_adapter_has_dropout(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    from sharelora.training.nlg.trainer import NlgTrainer

    rates: dict[str, float] = {}

    def look(self: Any, *args: Any, **kwargs: Any) -> None:
        rates.update({n: m.p for n, m in self.model.named_modules() if isinstance(m, torch.nn.Dropout)})
        raise KeyboardInterrupt

    monkeypatch.setattr(NlgTrainer, "train", look)
    with pytest.raises(KeyboardInterrupt):
        job()
    adapters = {name: rate for name, rate in rates.items() if "lora_" in name}
    others = {name: rate for name, rate in rates.items() if "lora_" not in name}
    assert set(adapters.values()) == {0.1} and set(others.values()) == {0.0}
    assert len(adapters) == 2 and len(others) >= 5


def test_the_schedule_is_on_the_optimizer_that_the_engine_gives(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules: list[LambdaLR] = []
    used: list[Any] = []

    def replace(self: EngineOptimizer, accelerator: Any, optimizer: Any) -> Any:
        return torch.optim.SGD(optimizer.param_groups, lr=5e-3)

    def look(model: Any, optimizer: Any) -> None:
        used.append(optimizer)
        raise KeyboardInterrupt

    def note(optimizer: Any, factor: Any) -> Any:
        schedules.append(LambdaLR(optimizer, factor))
        return schedules[-1]

    monkeypatch.setattr(EngineOptimizer, "wrap", replace)
    monkeypatch.setattr("sharelora.trainer.trainer.LambdaLR", note)
    monkeypatch.setattr("sharelora.trainer.trainer.require_engine", look)
    with pytest.raises(KeyboardInterrupt):
        job("--scheduler", "cosine", "--warmup_step", "2")
    assert isinstance(used[0], torch.optim.SGD) and [schedule.optimizer for schedule in schedules] == used
    assert schedules[0].lr_lambdas[0](1) == 0.5


@pytest.mark.slow
def test_files_of_ids_train_as_their_text_does(job: Job, rows_file: Path, tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "vocab")
    encode(tokenizer, rows_file, tmp_path / "ids.jsonl", add_bos=True, add_eos=True)
    job()
    job("--train_data", str(tmp_path / "ids.jsonl"), "--work_dir", str(tmp_path / "ids"))
    assert same(tmp_path / "out" / "adapter_model", tmp_path / "ids" / "adapter_model")
    row = ids_of(tmp_path / "ids.jsonl")[0]
    (tmp_path / "bad.jsonl").write_text(json.dumps({**row, "completion": [50256]}) + "\n")
    with pytest.raises(
        UserError, match=r"bad.jsonl, row 1 has the token id 50256 in completion; the vocabulary has 0 to"
    ):
        job("--train_data", str(tmp_path / "bad.jsonl"), "--work_dir", str(tmp_path / "bad"))


@pytest.mark.slow
def test_the_loss_can_be_on_the_inputs_too(job: Job, tmp_path: Path) -> None:
    _, text = job()
    _, both = job("--obj", "jlm", "--work_dir", str(tmp_path / "jlm"))
    assert both["eval_loss_before"] == pytest.approx(text["eval_loss_before"], rel=1e-6)  # always on the text alone
    assert both["train_loss"] != pytest.approx(text["train_loss"], rel=1e-5)


def test_long_rows_are_cut_and_said(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sharelora"):
        args, _ = job("--seq_len", "24")
    assert "rows are longer than 24 tokens (longest" in caplog.text
    reports = result(args)["metrics"]["truncated"]
    assert [report["split"] for report in reports] == ["train", "valid"] and reports[0]["cut"] > 0


def test_rows_end_where_the_model_does(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sharelora"):
        job("--seq_len", "512")
    assert "--seq_len 512 is more than the model reads; rows end at 128 tokens" in caplog.text


def test_fewer_rows_are_drawn_by_the_seed(job: Job) -> None:
    _, metrics = job("--max_train_samples", "8", "--max_epoch", "3", "--max_step", "-1", "--max_eval_samples", "5")
    assert metrics["steps"] == 6  # two batches of four in each of three epochs


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--seq_len 9", r"32 of 32 inputs of train leave no room for a text in seq_len 9"),
        ("--train_data e2ee", "unknown data set e2ee"),
        ("--lora_modules q_proj", "modules q_proj match nothing in the model"),
        ("--bf16 --fp16", "need one of them at most"),
    ],
)
def test_bad_input_is_said_before_anything_is_loaded(
    job: Job, monkeypatch: pytest.MonkeyPatch, flags: str, said: str
) -> None:
    monkeypatch.setattr("sharelora.training.job.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=said):
        job(*flags.split())


def test_malformed_rows_are_said_with_their_line(job: Job, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "bad.txt")
    file.write_text(file.read_text().replace("||", "|", 1))
    with pytest.raises(UserError, match=r"bad.txt line 1 has 0 separators \|\|; need input\|\|text"):
        job("--train_data", str(file))


def test_a_training_file_alone_needs_validation_rows(
    gpt2_folder: Path, rows_file: Path, tmp_path: Path, job: Job
) -> None:
    from sharelora.training.nlg.job import parse, run

    words = ["--train_data", str(rows_file), "--init_checkpoint", str(gpt2_folder), "--work_dir", str(tmp_path / "x")]
    with pytest.raises(UserError, match="no validation rows; need some to evaluate on; pass --valid_data"):
        run(parse([*words, "--use_cpu"]))


def test_a_dry_run_writes_nothing(job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.training.job.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    with caplog.at_level(logging.INFO, "sharelora"):
        args, metrics = job("--dry_run")
    assert metrics == {} and not args.output_dir.exists()
    assert "fits" in caplog.text and "dry run" in caplog.text


def test_memory_that_runs_out_ends_with_what_saves_some(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("sharelora.trainer.trainer.AdapterTrainer.training_step", full)
    with pytest.raises(
        UserError, match=r"memory ran out \(CUDA.*need about.*--train_batch_size 2 --grad_acc 2 \(saves"
    ):
        job()
