"""One test for each defect of LoRA's run_glue.py that a test can reach: here it is absent."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from small_encoders import Run
from transformers import RobertaForSequenceClassification

from sharelora.convert import export_loralib
from sharelora.support.errors import UserError
from sharelora.training.arguments import ADAPTER
from sharelora.training.glue.job import GlueSession

QUICK = ("--num_train_epochs", "1", "--max_train_samples", "60")
# Larger steps, so that an adapter that is not applied shows.
STRONG = (*QUICK, "--learning_rate", "5e-2")


def dev_logits(session: GlueSession) -> np.ndarray[Any, Any]:
    return session.trainer.logits(session.data.tokens[session.data.rows.dev[0]])


def file_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / ADAPTER / "adapter_model.safetensors")


@pytest.mark.parametrize("share", ["none", "ab"])
def test_an_adapter_that_is_given_for_evaluation_is_applied(
    job: Run, sessions: list[GlueSession], tmp_path: Path, share: str
) -> None:
    """loralib's layers are merged before the file is read: only its head counts (0.67 instead of 0.875 on MNLI)."""
    job("--share", share, *STRONG)
    job("--lora_path", str(tmp_path / "out"), "--do_eval", "--output_dir", str(tmp_path / "e"))
    saved, loaded = (dev_logits(session) for session in sessions)
    np.testing.assert_allclose(loaded, saved, rtol=1e-5, atol=1e-6)
    with sessions[1].model.disable_adapter():
        bare = dev_logits(sessions[1])
    assert np.abs(bare - loaded).max() > 1e-3


def test_a_loralib_file_that_is_given_for_evaluation_is_applied(
    job: Run, sessions: list[GlueSession], tmp_path: Path
) -> None:
    job("--share", "none", *STRONG)
    export_loralib(tmp_path / "out" / ADAPTER, tmp_path / "flat.safetensors")
    torch.save(load_file(tmp_path / "flat.safetensors"), tmp_path / "flat.bin")
    for name in ("flat.safetensors", "flat.bin"):
        given = ("--lora_path", str(tmp_path / name), "--lora_alpha", "16")
        job(*given, "--do_eval", "--output_dir", str(tmp_path / f"e_{name}"))
    expected = dev_logits(sessions[0])
    for session in sessions[1:]:
        np.testing.assert_allclose(dev_logits(session), expected, rtol=1e-5, atol=1e-6)


def test_training_starts_from_the_adapter_and_saves_what_was_trained(
    job: Run, sessions: list[GlueSession], tmp_path: Path
) -> None:
    """Upstream starts from the base minus the adapter, and the matrices that it saves belong to other weights."""
    first = job("--share", "a", *STRONG, "--save_epoch", "last")
    out = str(tmp_path / "next")
    more = ("--lora_path", str(tmp_path / "out"), "--do_train", "--do_eval", "--eval_on_start", "--output_dir", out)
    second = job(*more, *QUICK, "--learning_rate", "1e-3")
    assert second["course"][0]["step"] == 0
    assert second["course"][0]["dev_loss"] == pytest.approx(first["dev_loss_last"], rel=1e-5)
    job("--lora_path", out, "--output_dir", str(tmp_path / "e"))
    np.testing.assert_allclose(dev_logits(sessions[2]), dev_logits(sessions[1]), rtol=1e-5, atol=1e-6)


def test_saving_after_an_evaluation_and_loading_gives_the_same_logits(
    job: Run, sessions: list[GlueSession], tmp_path: Path, encoder: Path
) -> None:
    """Upstream saves weights that evaluation has merged the adapter into, and merges it again after loading."""
    before = (encoder / "model.safetensors").read_bytes()
    job("--share", "a", *STRONG)
    assert not [name for name in file_of(tmp_path / "out") if "query.weight" in name]
    base = RobertaForSequenceClassification.from_pretrained(encoder, num_labels=2)
    model = PeftModel.from_pretrained(base, str(tmp_path / "out" / ADAPTER)).eval()
    rows = sessions[0].data.tokens["dev"]
    for _ in range(2):  # evaluating twice merges nothing twice
        with torch.no_grad():
            batch = sessions[0].data.collator([rows[index] for index in range(len(rows))])
            found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        np.testing.assert_allclose(found.numpy(), dev_logits(sessions[0]), rtol=1e-4, atol=1e-5)
    assert (encoder / "model.safetensors").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("method", ["share_a", "bitfit"])
def test_a_head_of_another_shape_is_left_out_with_consent_and_a_word(
    job: Run, sessions: list[GlueSession], tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """Upstream's MRPC, RTE and STS-B scripts start from an MNLI file, whose head of three classes stops them."""
    job("--task_name", "mnli", "--method", method, *STRONG, "--save_epoch", "last")
    start = ("--lora_path", str(tmp_path / "out"), "--do_train", "--do_eval", *QUICK, "--learning_rate", "1e-6")
    for task in ("rte", "stsb"):
        folder = tmp_path / task
        with pytest.raises(UserError, match=r"head .* another task .*out_proj.*--new_head"):
            job("--task_name", task, *start, "--output_dir", str(folder))
        with caplog.at_level(logging.INFO, "sharelora"):
            found = job("--task_name", task, *start, "--output_dir", str(folder), "--new_head")
        assert "the head of" in caplog.text and "is left out" in caplog.text and "out_proj" in caplog.text
        again = job("--task_name", task, *start, "--output_dir", str(folder), "--new_head")  # finished: its own head
        assert again["dev_loss"] == pytest.approx(found["dev_loss_selected"], rel=1e-6)
    del sessions[2::2]
    names = [name for name, value in sessions[0].model.named_parameters() if value.requires_grad]
    first, *others = (dict(session.model.named_parameters()) for session in sessions)
    body = [name for name in names if "classifier" not in name]
    assert body and all((first[name] - other[name]).abs().max() < 1e-3 for name in body for other in others)


def test_a_folder_of_a_base_model_is_never_resumed_from(job: Run, tmp_path: Path, encoder: Path) -> None:
    """Upstream takes a local base model with as many labels as the task for a checkpoint of this run."""
    folder = tmp_path / "checkpoint-5"
    shutil.copytree(encoder, folder)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 5, "epoch": 1.0}))
    found = job("--model_name_or_path", str(folder), *QUICK)
    assert found["steps"] == 3 and found["course"][0]["epoch"] == 1


def test_no_test_split_is_needed_where_nothing_is_predicted(job: Run, glue_root: Path, tmp_path: Path) -> None:
    """Upstream demands one for every task."""
    shutil.copytree(glue_root, tmp_path / "data")
    (tmp_path / "data" / "glue" / "CoLA" / "test.tsv").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARELORA_DATA", str(tmp_path / "data"))
        assert job(*QUICK)["steps"] == 3
        with pytest.raises(UserError, match="need test"):
            job("--do_predict", "--do_train", *QUICK, "--output_dir", str(tmp_path / "p"))


def test_r_drop_is_refused_for_scores_and_left_out_of_evaluation(
    job: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Upstream compares scores as if they were classes, and runs the second pass in evaluation as well."""
    with pytest.raises(UserError, match=r"--reg_loss_wgt with scores"):
        job("--task_name", "stsb", "--reg_loss_wgt", "1")
    sizes: list[tuple[bool, int]] = []
    masked: list[bool] = []
    real = RobertaForSequenceClassification.forward

    def seen(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append((self.training, len(input_ids)))
        first, second = input_ids.chunk(2) if self.training else (input_ids, input_ids)
        masked.append(not torch.equal(first, second))
        return real(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(RobertaForSequenceClassification, "forward", seen)
    job(*QUICK, "--reg_loss_wgt", "1", "--masking_prob", "0.1")
    assert {size for training, size in sizes if training} == {32, 16}  # twice 16, and twice the 8 rows that remain
    assert sum(size for training, size in sizes if not training) == 20 + 40
    assert masked == [training for training, _ in sizes]


def test_lora_needs_no_rank_and_no_alpha_on_the_command_line(job: Run, tmp_path: Path) -> None:
    """Upstream's --apply_lora crashes without them."""
    job("--apply_lora", *QUICK)
    config = json.loads((tmp_path / "out" / ADAPTER / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["share"]) == (8, 16, "none")
    assert sorted(config["target_modules"]) == ["query", "value"] and config["modules_to_save"] == ["classifier"]


def test_decay_spares_biases_and_norms_alone(job: Run, sessions: list[GlueSession]) -> None:
    """As upstream: A, B and the head's matrices decay. A bank's names could hide that."""
    job("--share", "ab", "--weight_decay", "0.1", *QUICK)
    trainer = sessions[0].trainer
    decayed = {
        name
        for name, value in trainer.model.named_parameters()
        for group in trainer.optimizer.param_groups
        if group["weight_decay"] and any(value is parameter for parameter in group["params"])
    }
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert decayed == {name for name in trained if not name.endswith("bias")} and len(trained - decayed) == 2


def test_what_is_counted_leaves_the_head_out_and_says_so(
    job: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The paper's counts are without the head; the repository's README and its code count otherwise."""
    with caplog.at_level(logging.INFO, "sharelora"):
        found = job("--share", "a", *QUICK)
    elements = sum(value.numel() for value in file_of(tmp_path / "out").values())
    assert found["trainable"] == 2 * (8 * 32 + 2 * 32 * 8) and found["trainable_head"] == 32 * 32 + 32 + 2 * 32 + 2
    assert elements == found["trainable"] + found["trainable_head"]
    assert f"{found['trainable']:,} parameters are trained without the head, {elements:,} with it" in caplog.text


def test_an_adapter_holds_no_copy_of_the_base(job: Run, tmp_path: Path) -> None:
    """Upstream's checkpoints are whole models of 500 MB."""
    job(*QUICK)
    for folder in (tmp_path / "out" / ADAPTER, *(tmp_path / "out").glob("checkpoint-*")):
        names = set(load_file(folder / "adapter_model.safetensors"))
        assert all("lora_bank" in name or "classifier" in name for name in names)
    assert file_of(tmp_path / "out")


def test_a_plain_peft_adapter_is_a_start_too(job: Run, sessions: list[GlueSession], tmp_path: Path) -> None:
    from sharelora.convert import export_lora

    job("--share", "none", *STRONG)
    export_lora(tmp_path / "out" / ADAPTER, tmp_path / "plain")
    job("--lora_path", str(tmp_path / "plain"), "--output_dir", str(tmp_path / "e"))
    np.testing.assert_allclose(dev_logits(sessions[1]), dev_logits(sessions[0]), rtol=1e-5, atol=1e-6)


def test_an_adapter_without_a_head_is_a_start_and_cannot_be_evaluated(
    job: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job("--share", "none", *STRONG)
    flat = export_loralib(tmp_path / "out" / ADAPTER, tmp_path / "flat.safetensors").file
    save_file({name: value for name, value in load_file(flat).items() if "lora" in name}, tmp_path / "bare.safetensors")
    given = (
        "--lora_path",
        str(tmp_path / "bare.safetensors"),
        "--lora_alpha",
        "16",
        "--output_dir",
        str(tmp_path / "e"),
    )
    with pytest.raises(UserError, match="holds no head"):
        job(*given)
    with caplog.at_level(logging.INFO, "sharelora"):
        job(*given, "--do_train", *QUICK)
    assert "holds no head, a new one is trained" in caplog.text
