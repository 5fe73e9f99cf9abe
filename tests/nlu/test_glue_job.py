"""Whole runs in this process: what they train, what they leave, and what the same command does the next time."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_encoders import Run, write_encoder

from sharelora.support.errors import UserError
from sharelora.training.arguments import ADAPTER, MODEL
from sharelora.training.glue.base import Base
from sharelora.training.glue.job import parse
from sharelora.training.glue.methods import METHODS
from sharelora.training.glue.model import build, count

QUICK = ("--num_train_epochs", "1", "--max_train_samples", "60")
LOW_RANK = ("lora", "share_a", "share_ab", "odd_even")
# Weights of the best epoch so far, and all of a checkpoint but its weights.
BESIDE = ("selected.safetensors", "training_state.safetensors")
# Their code is that of a row which is tested always.
REPEATED = ("lora", "share_b", "odd_even", "pfeiffer")


def slow(*values: Any) -> Any:
    """A case of a test that only the long suite runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


def result(folder: Path, kind: str = "") -> dict[str, Any]:
    return json.loads((folder / f"result{kind}.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (file for file in folder.glob("*.safetensors") if file.name not in BESIDE)
    return load_file(file)


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(folder: Path, method: str) -> Path:
    return folder / (MODEL if method == "full" else ADAPTER)


@pytest.mark.parametrize("method", [slow(name) if name in REPEATED else name for name in METHODS])
def test_every_method_trains_saves_and_is_evaluated_as_it_was(job: Run, tmp_path: Path, method: str) -> None:
    """The metrics of the saved weights, loaded in a new run, are those at the time of saving."""
    out = tmp_path / "out"
    found = job("--method", method, *QUICK, "--learning_rate", "5e-3")
    folder = trained(out, method)
    assert result(out)["config"]["learned_by"] == method and found["saved_epoch"] == "selected"
    assert found["adapter_bytes"] == next(folder.glob("*.safetensors")).stat().st_size
    words = ["--lora_path", str(folder)] if method != "full" else ["--model_name_or_path", str(folder)]
    again = job(*words, "--do_eval", "--output_dir", str(tmp_path / "evaluation"))
    for name in ("matthews_correlation", "loss"):
        assert again[f"dev_{name}"] == pytest.approx(found[f"dev_{name}_selected"], rel=1e-6)
    assert "held_out_loss" not in again


def test_a_run_leaves_its_files(job: Run, tmp_path: Path) -> None:
    job("--do_train", "--do_eval", "--do_predict", "--run_name", "mine")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "adapter_model", "all_results.json", "checkpoint-14", "completed", "eval_results_cola.json", "loss.csv",
        "loss.png", "predictions", "result.json", "settings.json",
    }  # fmt: skip
    assert result(tmp_path / "out")["run"] == "mine"
    assert [path.name for path in (tmp_path / "out" / "predictions").iterdir()] == ["CoLA.tsv"]
    files = {path.name for path in (tmp_path / "out" / "adapter_model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "glue_task.json"} <= files
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".bin"]


def test_the_epochs_of_a_result_are_named_for_what_they_are(job: Run, tmp_path: Path) -> None:
    found = job("--num_train_epochs", "4", "--learning_rate", "3e-2")
    course = found["course"]
    assert [entry["epoch"] for entry in course] == [1, 2, 3, 4]
    by_epoch = {entry["epoch"]: entry for entry in course}
    held = {epoch: entry["held_out_matthews_correlation"] for epoch, entry in by_epoch.items()}
    dev = {epoch: entry["dev_matthews_correlation"] for epoch, entry in by_epoch.items()}
    assert found["selected_epoch"] == max(held, key=lambda epoch: held[epoch])
    assert found["best_epoch"] == max(dev, key=lambda epoch: dev[epoch])
    assert found["dev_matthews_correlation_last"] == dev[4]
    assert found["dev_matthews_correlation_selected"] == dev[found["selected_epoch"]]
    assert found["dev_matthews_correlation_best_epoch"] == max(dev.values())
    assert "held_out_matthews_correlation_best_epoch" not in found
    files = json.loads((tmp_path / "out" / "eval_results_cola.json").read_text())
    assert files["eval_matthews_correlation"] == dev[found["selected_epoch"]] and files["weights"] == "selected"


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "pick"), [("loss", min), slow("matthews_correlation", max)])
def test_the_kept_weights_are_those_of_the_chosen_epoch(job: Run, tmp_path: Path, metric: str, pick: Any) -> None:
    rising = ("--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "28", "--learning_rate", "1")
    every = ("--num_train_epochs", "4", *rising, "--save_total_limit", "9")
    found = job(*every, "--selection_metric", metric)
    held = [entry[f"held_out_{metric}"] for entry in found["course"]]
    epoch = held.index(pick(held)) + 1
    out = tmp_path / "out"
    assert found["selected_epoch"] == epoch < 4
    assert same(out / ADAPTER, out / f"checkpoint-{7 * epoch}") and not same(out / ADAPTER, out / "checkpoint-28")
    last = job(*every, "--save_epoch", "last", "--output_dir", str(tmp_path / "last"))
    assert last["saved_epoch"] == "last" and same(tmp_path / "last" / ADAPTER, out / "checkpoint-28")


def test_mnli_is_evaluated_and_predicted_in_two_halves(job: Run, tmp_path: Path) -> None:
    found = job("--task_name", "mnli", "--do_train", "--do_predict", *QUICK)
    out = tmp_path / "out"
    matched, mismatched = (json.loads((out / f"eval_results_{name}.json").read_text()) for name in ("mnli", "mnli-mm"))
    assert (matched["eval_samples"], mismatched["eval_samples"]) == (40, 20)
    assert matched["eval_loss"] == found["dev_matched_loss_selected"] != found["dev_mismatched_loss_selected"]
    assert mismatched["eval_accuracy"] == found["dev_mismatched_accuracy_selected"]
    assert sorted(path.name for path in (out / "predictions").iterdir()) == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    lines = (out / "predictions" / "MNLI-m.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and lines[1].split("\t")[1] in ("entailment", "neutral", "contradiction")


@pytest.mark.slow
def test_scores_are_learned_and_written_as_scores(job: Run, tmp_path: Path) -> None:
    found = job("--task_name", "stsb", "--do_train", "--do_predict", "--num_train_epochs", "5", "--method", "full")
    assert found["dev_pearson_selected"] > 0.5 and found["dev_loss_last"] < found["course"][0]["dev_loss"]
    mean = (found["dev_pearson_last"] + found["dev_spearmanr_last"]) / 2
    assert found["dev_combined_score_last"] == pytest.approx(mean)
    lines = (tmp_path / "out" / "predictions" / "STS-B.tsv").read_text().splitlines()[1:]
    assert all(0 <= float(line.split("\t")[1]) <= 5 and len(line.split(".")[1]) == 3 for line in lines)


@pytest.mark.slow
def test_predictions_are_in_the_order_of_the_rows(job: Run, sessions: list[Any], tmp_path: Path) -> None:
    """Rows are evaluated from long to short; each prediction is that of its row alone."""
    job("--method", "full", "--task_name", "sst2", "--num_train_epochs", "8", "--learning_rate", "3e-3", "--do_predict",
        "--do_train")  # fmt: skip
    lines = (tmp_path / "out" / "predictions" / "SST-2.tsv").read_text().splitlines()[1:]
    rows, collator = sessions[0].data.tokens["test"], sessions[0].data.collator
    with torch.no_grad():
        alone = [
            sessions[0].model(**_inputs(collator([rows[index]]))).logits.argmax().item() for index in range(len(rows))
        ]
    assert [line.split("\t") for line in lines] == [[str(index), str(label)] for index, label in enumerate(alone)]
    assert set(alone) == {0, 1}


def _inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ("lora", 4 * 8 * 64), ("share_a", 2 * 8 * 32 + 4 * 8 * 32), ("share_ab", 2 * 8 * 64), ("odd_even", 2 * 8 * 64),
        ("bitfit", 32 + 2 * (4 * 32 + 32 + 64 + 32 + 32)), ("pfeiffer", 2 * (2 * 64 * 32 + 96)),
        ("houlsby", 4 * (2 * 64 * 32 + 96)), ("prefix", 2 * 2 * 20 * 32),
    ],
)  # fmt: skip
def test_what_each_method_trains(encoder: Path, method: str, trained: int) -> None:
    """Written out for two layers of width 32 and 64; the head, 32 x 32 and 2 x 32 with biases, is counted apart."""
    from transformers import AutoModelForSequenceClassification

    args = parse(["--method", method, "--lora_modules", "query,value"] if method in LOW_RANK else ["--method", method])
    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    found = count(build(Base(base, ("classifier",), False, ""), args.method, args.build_settings), ("classifier",))
    assert (found.trained, found.head) == (trained, 32 * 32 + 32 + 2 * 32 + 2)
    assert found.total == 21218 + (0 if method == "bitfit" else trained)


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "distilbert", "electra"])
def test_other_encoders_train_their_query_and_value_and_their_head(job: Run, tmp_path: Path, kind: str) -> None:
    # BERT is published without its classifier's pooler where it was trained on masked words alone.
    folder = write_encoder(tmp_path / kind, kind)
    found = job("--model_name_or_path", str(folder), *QUICK, "--share", "a", "--lora_r", "4")
    saved = weights(tmp_path / "out" / ADAPTER)
    assert found["trainable"] == 2 * (4 * 32 + 2 * 4 * 32)
    heads = {
        "bert": ("bert.pooler.dense", "classifier"),
        "deberta-v2": ("pooler.dense", "classifier"),
        "distilbert": ("pre_classifier", "classifier"),
        "electra": ("classifier.dense", "classifier.out_proj"),
    }[kind]
    names = {f"base_model.model.{name}.{part}" for name in heads for part in ("weight", "bias")}
    assert {name for name in saved if "lora_bank" not in name} == names
    assert found["trainable_head"] == 32 * 32 + 32 + 32 * 2 + 2
    use = ("--lora_path", str(tmp_path / "out"), "--output_dir", str(tmp_path / "e"))
    again = job("--model_name_or_path", str(folder), *use)
    assert again["dev_loss"] == pytest.approx(found["dev_loss_selected"], rel=1e-6)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_another(job: Run, tmp_path: Path) -> None:
    out = [tmp_path / name for name in "abc"]
    for folder, seed in zip(out, "112", strict=True):
        job("--output_dir", str(folder), "--seed", seed, *QUICK)
    assert same(out[0] / ADAPTER, out[1] / ADAPTER) and not same(out[0] / ADAPTER, out[2] / ADAPTER)


@pytest.mark.parametrize("method", ["share_ab", "houlsby", slow("full")])
def test_an_interrupted_run_goes_on_bit_for_bit(
    job: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """Stopped in the third epoch: weights, choice and course are those of an uninterrupted run."""
    more = ("--method", method, "--num_train_epochs", "3", "--reg_loss_wgt", "0.5", "--masking_prob", "0.2")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = job("--output_dir", str(whole), *more)

    def fail(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 17:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sharelora.trainer.callbacks.Speed.on_step_begin", fail, raising=False)
        with pytest.raises(KeyboardInterrupt):
            job("--output_dir", str(broken), *more)
    assert not (broken / "completed").exists()
    with caplog.at_level(logging.INFO, "sharelora"):
        found = job("--output_dir", str(broken), *more)
    assert f"resuming from {broken}/checkpoint-14" in caplog.text
    assert same(trained(whole, method), trained(broken, method))
    assert found["course"] == expected["course"] and found["selected_epoch"] == expected["selected_epoch"]


def test_a_finished_run_is_evaluated_and_not_trained_again(job: Run, tmp_path: Path) -> None:
    for method in ("share_a", "full"):
        out = tmp_path / method
        more = ("--method", method, "--output_dir", str(out), *QUICK, "--learning_rate", "5e-3")
        first = job(*more)
        before = weights(trained(out, method))
        again = job(*more)
        assert again["dev_loss"] == pytest.approx(first["dev_loss_selected"], rel=1e-6)
        assert all(torch.equal(value, before[name]) for name, value in weights(trained(out, method)).items())
        assert result(out)["metrics"]["steps"] == first["steps"] and result(out, "_evaluate")["metrics"]["dev_loss"]
        with pytest.raises(UserError, match=r"max_seq_length 32, this one has 16.*--overwrite_output_dir"):
            job(*more, "--max_seq_length", "16")


@pytest.mark.slow
def test_a_checkpoint_of_any_method_can_be_evaluated(job: Run, tmp_path: Path) -> None:
    for method in ("share_a", "bitfit", "full"):
        out = tmp_path / method
        found = job("--method", method, "--output_dir", str(out), "--save_total_limit", "2")
        place = str(out / "checkpoint-7")
        words = ("--model_name_or_path", place, "--tokenizer_name", str(out / MODEL)) if method == "full" else ()
        words = words or ("--lora_path", place)
        again = job(*words, "--do_eval", "--output_dir", str(tmp_path / f"{method}_e"))
        assert again["dev_loss"] == pytest.approx(found["course"][0]["dev_loss"], rel=1e-6)
        assert again["trainable"] == (0 if method == "full" else found["trainable"])


def test_without_checkpoints_and_held_out_rows_the_last_epoch_is_kept(job: Run, tmp_path: Path) -> None:
    found = job("--save_strategy", "no", "--held_out", "0", "--eval_strategy", "no", *QUICK)
    assert found["saved_epoch"] == "last" and found["train_samples"] == 60 and len(found["course"]) == 1
    assert not {"selected_epoch", "dev_loss_selected", "held_out_loss_last"} & found.keys()
    assert not list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.slow
def test_gradient_accumulation_changes_nothing(job: Run, tmp_path: Path) -> None:
    """transformers' classifiers and its Trainer together make gradients larger with accumulation; here two halves of a
    batch, also of unequal size, are the whole."""
    outs = [tmp_path / name for name in "ab"]
    text = "--train_sampling_strategy sequential --num_train_epochs 1 --max_grad_norm 0 --optim sgd --learning_rate 0.1"
    fixed = (*text.split(), "--cls_dropout", "0", "--max_train_samples", "67")
    encoder = write_encoder(tmp_path / "calm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for out, batch, steps in zip(outs, (16, 4), (1, 4), strict=True):
        sizes = ("--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(steps))
        job("--model_name_or_path", str(encoder), "--output_dir", str(out), *fixed, *sizes)
    first, second = (weights(out / ADAPTER) for out in outs)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-6


def test_padding_changes_no_result(job: Run, tmp_path: Path) -> None:
    job(*QUICK)
    losses = [
        job("--lora_path", str(tmp_path / "out"), "--output_dir", str(tmp_path / name), *more)["dev_loss"]
        for name, more in (("a", ()), ("b", ("--pad_to_max_length",)), ("c", ("--per_device_eval_batch_size", "3")))
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_own_files_are_learned(job: Run, words: list[str], tmp_path: Path) -> None:
    from sharelora.training.glue.job import run

    rows = [{"text": f"the dog sees {word}", "label": label} for word, label in (("red", "good"), ("dark", "bad"))] * 20
    for name in ("train", "dev"):
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    at = words.index("--task_name")
    own = [*words[:at], *words[at + 2 :], "--train_file", str(tmp_path / "train.json")]
    own += ["--validation_file", str(tmp_path / "dev.json"), "--method", "full", "--num_train_epochs", "8"]
    session = run(parse(own))
    assert session is not None and session.metrics["dev_accuracy_selected"] == 1.0
    record = json.loads((tmp_path / "out" / MODEL / "glue_task.json").read_text())
    assert record["labels"] == ["bad", "good"] and record["task"] == "own"


def test_a_dry_run_loads_and_writes_nothing(
    job: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharelora.training.glue.job.load_encoder", lambda *_, **__: pytest.fail("weights were loaded"))
    with caplog.at_level(logging.INFO, "sharelora"):
        for method in METHODS:
            assert job("--dry_run", "--method", method) == {}
    assert not (tmp_path / "out").exists()
    assert caplog.text.count("without the head") == len(METHODS) and "dry run: no weights were loaded" in caplog.text


def test_bf16_trains(job: Run) -> None:
    found = job("--bf16", *QUICK)
    assert np.isfinite(found["dev_loss_last"])


@pytest.mark.parametrize("method", ["share_a", slow("houlsby"), slow("prefix")])
def test_checkpointing_of_activations_changes_nothing(job: Run, tmp_path: Path, method: str) -> None:
    encoder = write_encoder(tmp_path / "calm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    fixed = ("--model_name_or_path", str(encoder), "--cls_dropout", "0", "--method", method, *QUICK)
    for name, more in (("a", ()), ("b", ("--gradient_checkpointing",))):
        job(*fixed, *more, "--output_dir", str(tmp_path / name))
    first, second = (weights(tmp_path / name / ADAPTER) for name in "ab")
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-6


def test_deterministic_algorithms_are_asked_for_during_the_run_alone(job: Run, sessions: list[Any]) -> None:
    job(*QUICK, "--use_deterministic_algorithms")
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("method", ["share_a", "prefix"])
def test_a_compiled_model_learns_the_same(job: Run, tmp_path: Path, method: str) -> None:
    encoder = write_encoder(tmp_path / "calm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    # One shape of batches, so that there is one thing to compile.
    one = ("--pad_to_max_length", "--max_train_samples", "52", "--max_eval_samples", "16")
    one = (*one, "--per_device_train_batch_size", "16", "--per_device_eval_batch_size", "16")
    fixed = ("--model_name_or_path", str(encoder), "--cls_dropout", "0", "--method", method, *QUICK, *one)
    found = [
        job(*fixed, *more, "--output_dir", str(tmp_path / name))
        for name, more in (("a", ()), ("b", ("--torch_compile",)))
    ]
    assert found[1]["dev_loss_last"] == pytest.approx(found[0]["dev_loss_last"], rel=1e-4)
