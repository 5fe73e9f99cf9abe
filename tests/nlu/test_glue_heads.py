"""Heads: which modules they are, whose labels their outputs stand for, and what becomes of one that is there."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoders import Run, write_encoder
from transformers import AutoModelForSequenceClassification

from sharelora.models.encoders import max_input_length
from sharelora.support.errors import UserError
from sharelora.training.glue.base import renew, sequence_length
from sharelora.training.glue.head import head_modules
from sharelora.training.glue.job import GlueSession, parse
from sharelora.training.glue.record import fingerprint
from sharelora.training.glue.selection import best_entry, better

QUICK = ("--num_train_epochs", "1", "--max_train_samples", "60")


def tuned(folder: Path, labels: Sequence[str], seed: int = 4) -> Path:
    """Write a classifier that is tuned already, whose outputs have names."""
    write_encoder(folder, seed=1)
    names = dict(enumerate(labels))
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(names), id2label=names, label2id={name: index for index, name in names.items()}
    )
    torch.nn.init.normal_(model.classifier.out_proj.weight)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("roberta", ("classifier",)),
        ("electra", ("classifier",)),
        ("bert", ("bert.pooler", "classifier")),
        ("deberta-v2", ("pooler", "classifier")),
        ("distilbert", ("pre_classifier", "classifier")),
    ],
)
def test_a_head_is_everything_outside_the_backbone_and_a_pooler(
    tmp_path: Path, kind: str, expected: tuple[str, ...]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(write_encoder(tmp_path, kind))
    assert head_modules(model) == expected


def test_outputs_follow_the_labels_of_the_checkpoint(
    job: Run, sessions: list[GlueSession], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MNLI models have been published in every order of the three classes."""
    ours = tuned(tmp_path / "a", ("entailment", "neutral", "contradiction"))
    model = AutoModelForSequenceClassification.from_pretrained(ours)
    other = tmp_path / "b"
    order = [2, 0, 1]
    with torch.no_grad():
        for weight in model.classifier.out_proj.parameters():
            weight.copy_(weight[order].clone())
    model.config.id2label = {0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"}
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}
    model.save_pretrained(write_encoder(other, seed=1))
    with caplog.at_level(logging.INFO, "sharelora"):
        for folder in (ours, other):
            words = ("--model_name_or_path", str(folder), "--task_name", "mnli", "--do_eval")
            job(*words, "--output_dir", str(tmp_path / f"out_{folder.name}"))
    first, second = (session.trainer.logits(session.data.tokens["dev_matched"]) for session in sessions)
    np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-6)
    assert caplog.text.count("brought into the order entailment, neutral, contradiction") == 1


def test_the_head_of_another_task_needs_consent(job: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ("--model_name_or_path", str(tuned(tmp_path / "a", ("yes", "no"))), *QUICK)
    with pytest.raises(UserError, match=r"labels are yes, no, those of cola unacceptable, acceptable.*--new_head"):
        job(*words)
    with caplog.at_level(logging.INFO, "sharelora"):
        assert job(*words, "--new_head")["steps"] == 3
    assert "is left out, a new one is trained" in caplog.text


def test_a_head_with_numbers_for_names_is_taken_as_it_is(job: Run, tmp_path: Path) -> None:
    folder = str(tuned(tmp_path / "a", ("LABEL_0", "LABEL_1")))
    assert job("--model_name_or_path", folder, "--do_eval")["dev_loss"] > 0


def test_a_new_head_is_small_and_depends_on_the_seed_alone(
    job: Run, sessions: list[GlueSession], tmp_path: Path
) -> None:
    for name, more in (("a", ("--share", "a")), ("b", ("--method", "bitfit")), ("c", ("--share", "a", "--seed", "2"))):
        job(*QUICK, "--learning_rate", "1e-12", *more, "--output_dir", str(tmp_path / name))
    trained = [
        {name: value for name, value in session.model.named_parameters() if value.requires_grad} for session in sessions
    ]
    heads = [next(value for name, value in found.items() if "out_proj.weight" in name) for found in trained]
    torch.testing.assert_close(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_renewing_draws_every_linear_layer(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tuned(tmp_path, ("yes", "no")))
    before = {name: value.clone() for name, value in model.named_parameters()}
    torch.nn.init.ones_(model.classifier.dense.bias)
    renew(model, ("classifier",))
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"classifier.dense.weight", "classifier.out_proj.weight"}
    assert model.classifier.dense.weight.std().item() == pytest.approx(0.3, rel=0.2)


def test_a_fingerprint_tells_bases_apart_and_not_heads(tmp_path: Path) -> None:
    def loaded(folder: Path, classes: int = 2) -> torch.nn.Module:
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)

    folder, other = write_encoder(tmp_path / "a"), write_encoder(tmp_path / "b", seed=1)
    found = fingerprint(loaded(folder), ("classifier",))
    assert found == fingerprint(loaded(folder, 3), ("classifier",)) != fingerprint(loaded(other), ("classifier",))
    model = loaded(folder)
    with torch.no_grad():
        model.roberta.encoder.layer[1].output.dense.bias[3] += 1e-4
    assert fingerprint(model, ("classifier",)) != found


def test_the_longest_input_of_a_model(tmp_path: Path) -> None:
    from transformers import AutoConfig

    lengths = {
        kind: max_input_length(AutoConfig.from_pretrained(write_encoder(tmp_path / kind, kind)))
        for kind in ("roberta", "bert", "deberta-v2")
    }
    assert lengths == {"roberta": 64, "bert": 66, "deberta-v2": None}
    config = AutoConfig.from_pretrained(tmp_path / "roberta")
    assert sequence_length(parse([]), config) == 64 and sequence_length(parse([]), config, recorded=20) == 20
    assert sequence_length(parse(["--max_seq_length", "30"]), config, recorded=20) == 30


def test_the_first_of_equal_epochs_is_chosen_and_no_number_is_never() -> None:
    assert better("accuracy", 0.5, None) and not better("accuracy", 0.5, 0.5) and better("loss", 0.4, 0.5)
    assert not better("accuracy", float("nan"), None)
    course = [{"dev_f1": 0.1, "epoch": 1}, {"dev_f1": 0.3, "epoch": 2}, {"dev_f1": 0.3, "epoch": 3}]
    assert best_entry(course, "dev_f1")["epoch"] == 2


def test_a_record_says_what_the_weights_are(job: Run, tmp_path: Path, encoder: Path) -> None:
    job("--method", "pfeiffer", "--adapter_size", "5", *QUICK)
    record = json.loads((tmp_path / "out" / "adapter_model" / "glue_task.json").read_text())
    assert record["task"] == "cola" and record["labels"] == ["unacceptable", "acceptable"]
    assert (record["method"], record["settings"], record["epoch"]) == ("pfeiffer", {"adapter_size": 5}, 1.0)
    assert record["base"] == str(encoder.resolve()) and record["max_seq_length"] == 32
    again = job("--lora_path", str(tmp_path / "out"), "--output_dir", str(tmp_path / "e"))  # the size comes from there
    assert again["trainable"] == 2 * (2 * 5 * 32 + 5 + 32)
