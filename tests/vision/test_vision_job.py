"""Tuning a tiny LLaVA: what is trained, what is saved and read again, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from small_vision import Job, row, write_rows

from sharelora.convert import export_lora, merge
from sharelora.data.vision import ConversationWriter, ImageTextCollator, encode, read_conversations
from sharelora.models.adapter import load_adapter
from sharelora.models.vision import PROJECTOR, load_vision_base, projector
from sharelora.support.errors import UserError
from sharelora.tiny import ensure_tiny
from sharelora.training.vision.job import parse, run

SHAPE = (4, 7)  # layers, linear modules of each


@pytest.fixture(scope="module")
def plain(cache: Path) -> Path:
    """A model that cannot see."""
    return ensure_tiny("llama", cache, steps=1, progress=lambda done, total: None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model" / "adapter_model.safetensors")


def test_adapters_are_in_the_language_model_alone_and_the_projector_is_beside_them(job: Job, llava: Path) -> None:
    args = job()
    saved = weights(args.output_dir)
    banked = {name for name in saved if "lora_bank" in name}
    beside = {name: value for name, value in saved.items() if PROJECTOR in name}
    assert len(banked) == SHAPE[1] + SHAPE[0] * SHAPE[1]  # one A for each kind, a B for each site
    assert len(beside) == 4 and banked | set(beside) == set(saved)
    config = json.loads((args.output_dir / "adapter_model" / "adapter_config.json").read_text())
    paths = [site["path"] for site in config["plan"]["sites"]]
    assert len(paths) == SHAPE[0] * SHAPE[1] and all(path.startswith("model.language_model.") for path in paths)
    assert config["modules_to_save"] == [PROJECTOR]
    before = dict(projector(load_vision_base(str(llava))).named_parameters())
    for name, value in beside.items():
        assert not torch.equal(value, before[name.partition(f"{PROJECTOR}.")[2]]), name
    result = json.loads((args.output_dir / "result.json").read_text())
    assert result["metrics"]["steps"] == 2 and result["metrics"]["truncated"][0]["split"] == "train"
    assert result["config"]["lora_modules"] == "all"


def logits(model: Any, writer: ConversationWriter, made: Path) -> torch.Tensor:
    records = read_conversations(made / "llava" / "train.json")[:4]
    rows, _ = encode(writer, records, 512, "train")
    batch = ImageTextCollator(writer.reader, 2)([rows[place] for place in range(4)])
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch).logits
    return found


def test_a_saved_adapter_is_read_again_with_its_projector(
    flags: dict[str, str], llava: Path, made: Path, writer: ConversationWriter
) -> None:
    session = run(parse([word for name, value in flags.items() for word in (f"--{name}", value)]))
    assert session is not None
    trained = logits(session.model, writer, made)
    again = load_adapter(load_vision_base(str(llava)), Path(flags["output_dir"]))
    assert torch.equal(logits(again, writer, made), trained)
    base = load_vision_base(str(llava))
    assert not torch.allclose(logits(base, writer, made), trained)


def test_a_merged_model_and_a_plain_adapter_say_the_same(
    job: Job, llava: Path, made: Path, writer: ConversationWriter, tmp_path: Path
) -> None:
    # Larger steps, so that what the adapter adds is far above rounding.
    folder = job(learning_rate="0.01").output_dir / "adapter_model"
    expected = logits(load_adapter(load_vision_base(str(llava)), folder), writer, made)
    merged = merge(llava, folder, tmp_path / "merged")
    assert merged.changed == SHAPE[0] * SHAPE[1] + 4
    found = logits(load_vision_base(str(tmp_path / "merged")), writer, made)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-4)
    export_lora(folder, tmp_path / "plain")
    stock = PeftModel.from_pretrained(load_vision_base(str(llava)), str(tmp_path / "plain"))
    torch.testing.assert_close(logits(stock, writer, made), expected, atol=2e-5, rtol=2e-4)
    assert not torch.allclose(logits(load_vision_base(str(llava)), writer, made), expected, atol=1e-2)


def test_the_projector_is_trained_in_full_precision_on_a_16_bit_base(job: Job, llava: Path) -> None:
    args = job(bits="16", bf16="true")
    saved = weights(args.output_dir)
    assert {value.dtype for value in saved.values()} == {torch.float32}
    again = load_adapter(load_vision_base(str(llava), dtype="bf16"), args.output_dir)
    state = {name: value for name, value in again.state_dict().items() if "modules_to_save" in name}
    assert len(state) == 4
    for name, value in state.items():
        stored = saved[name.replace("modules_to_save.default.", "")]
        assert value.dtype == torch.float32 and torch.equal(value, stored)


def test_a_finished_run_is_evaluated_and_not_trained_again(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    args = job()
    before = weights(args.output_dir)
    with caplog.at_level(logging.INFO, "sharelora"):
        job(do_eval="true")
    after = weights(args.output_dir)
    assert "nothing is trained again" in caplog.text
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    metrics = json.loads((args.output_dir / "metrics.json").read_text())
    assert metrics["eval_loss"] > 0 and metrics["train_loss"] > 0


@pytest.mark.slow
def test_a_run_that_was_stopped_comes_to_the_same_weights(job: Job, tmp_path: Path) -> None:
    whole = job(max_steps="4", output_dir=str(tmp_path / "whole"))
    part = job(max_steps="4", output_dir=str(tmp_path / "part"))
    for name in ("adapter_model", "completed", "checkpoint-4"):
        place = part.output_dir / name
        place.rename(tmp_path / name)
    again = job(max_steps="4", output_dir=str(tmp_path / "part"))
    expected, found = weights(whole.output_dir), weights(again.output_dir)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_groups_are_measured_on_images_with_texts(job: Job, made: Path) -> None:
    more = {"similarity_sample": str(made / "llava" / "train.json"), "similarity_texts": "8"}
    args = job(share="ab", share_groups="auto", similarity_threshold="-1", **more)
    similarity = json.loads((args.output_dir / "similarity.json").read_text())
    assert similarity["texts"] == 8 and similarity["sample"] == "train.json"
    assert len(similarity["between"]["cosine"]) == SHAPE[0]
    # Every two layers reach -1, so all are one group.
    assert len([name for name in weights(args.output_dir) if "lora_bank" in name]) == 2 * SHAPE[1]


def test_a_dry_run_writes_nothing(job: Job, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.INFO, "sharelora"):
        job(dry_run="true")
    assert "dry run: no weights were loaded" in caplog.text and "self_attn.q_proj" in caplog.text
    assert not any((tmp_path / "out").glob("*"))


def test_a_model_without_a_vision_tower_is_refused(job: Job, plain: Path) -> None:
    with pytest.raises(UserError, match="is of type 'llama', which has no vision tower; need a model such as LLaVA"):
        job(model_name_or_path=str(plain))


def test_modules_that_the_language_model_lacks_are_refused(job: Job) -> None:
    with pytest.raises(UserError, match="modules fc1 match nothing in the language model; it has down_proj"):
        job(lora_modules="q_proj,fc1")


def test_bad_rows_are_found_before_a_model_is_loaded(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("sharelora.training.vision.job.load_vision_base", never)
    path = write_rows(tmp_path, row("<image>\nWhat?", "red", image="gone.png"))
    with pytest.raises(UserError, match=r"rows.json, row 1 \(id 7\): .*gone.png is missing"):
        job(data_path=str(path), eval_dataset_size="0", do_eval="false", eval_strategy="no")
    with pytest.raises(UserError, match=r"found 1 rows .* and eval_dataset_size 8"):
        job(data_path=str(path))


def test_flags_are_checked(flags: dict[str, str]) -> None:
    with pytest.raises(UserError, match="found no --data_path"):
        parse([])
    with pytest.raises(UserError, match="--model_max_length: found '1'; need a whole number of at least 2"):
        parse(["--data_path", "x", "--model_max_length", "1"])
    with pytest.raises(UserError, match="unknown flag --full_finetune"):
        parse(["--data_path", "x", "--full_finetune", "true"])


def test_a_base_keeps_its_other_parts_as_they_are(llava: Path) -> None:
    model: Any = load_vision_base(str(llava), dtype="bf16")
    assert {value.dtype for value in projector(model).parameters()} == {torch.float32}
    assert model.model.vision_tower.dtype == model.lm_head.weight.dtype == torch.bfloat16
