"""One test for each defect of QLoRA's and the ShareLoRA authors' scripts that a test can reach: here it is absent.

What the data package or the tuner prevents by itself is tested there in depth; here the whole command is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from outcome import Command
from safetensors.torch import load_file
from small_llama import write_model, write_tokenizer
from transformers import AutoTokenizer

from sharelora.data import DataArguments, PredictCollator, TrainCollator, build_data, load_splits
from sharelora.models.load import load_base, load_tokenizer
from sharelora.trainer.devices import Precision
from sharelora.training.instructions.job import InstructionArguments, parse
from sharelora.training.model import count, load_model
from sharelora.training.run import Run

ROOT = Path(__file__).resolve().parent.parent.parent


def result(folder: Path, kind: str = "") -> dict[str, Any]:
    return json.loads((folder / f"result{kind}.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def arguments(flags: dict[str, str], **changes: str) -> InstructionArguments:
    return parse([word for name, value in {**flags, **changes}.items() for word in (f"--{name}", value)])


# --- QLoRA: flags


def test_no_flag_is_swallowed(command: Command) -> None:
    """QLoRA drops flags that it does not know, among them its own scripts' --lora_modules."""
    assert command(lora_modul="all").code == 2


def test_lora_modules_is_obeyed(command: Command, tmp_path: Path) -> None:
    """QLoRA ignores --lora_modules; the authors' script always takes q_proj and v_proj."""
    command(lora_modules="o_proj,down_proj")
    assert {name.split("/")[2] for name in weights(tmp_path / "out" / "adapter_model")} == {"o_proj", "down_proj"}


def test_inert_warm_up_is_said(command: Command) -> None:
    """QLoRA's scripts set a warm-up that its constant schedule ignores, without a word."""
    assert "no warm-up" in command(warmup_ratio="0.03").log


# --- QLoRA: data


def test_the_validation_rows_are_the_same_every_time(tmp_path: Path) -> None:
    """QLoRA splits local files at random, without a seed."""
    file = write_rows(tmp_path / "x.jsonl", [{"input": str(i), "output": str(i)} for i in range(50)])
    splits = [load_splits(DataArguments(dataset=file, eval_dataset_size=7)) for _ in range(2)]
    assert splits[0].eval == splits[1].eval and len(splits[0].eval) == 7


def test_small_data_can_be_evaluated(command: Command, tmp_path: Path) -> None:
    """QLoRA asks for 1,024 validation rows and crashes on data with fewer."""
    outcome = command(eval_dataset_size="1024", do_eval="true")
    assert outcome.code == 0 and result(tmp_path / "out")["metrics"]["eval_loss"] > 0


def test_the_reason_for_unreadable_data_is_said(command: Command, tmp_path: Path) -> None:
    """QLoRA hides the true loading error behind a bare except."""
    (tmp_path / "x.jsonl").write_text('{"input": "a", "output": "b"}\n{broken\n')
    outcome = command(dataset=str(tmp_path / "x.jsonl"))
    assert outcome.code == 2 and "damaged line 2" in outcome.err


# --- QLoRA: tokens


def test_a_tokenizer_without_begin_token_writes_no_none(tmp_path: Path) -> None:
    """QLoRA joins bos_token to the text, so a tokenizer without one starts every prompt with `None`."""
    tokenizer = write_tokenizer(tmp_path)
    tokenizer.bos_token = None
    file = write_rows(tmp_path / "x.jsonl", [{"input": "say one", "output": "two"}] * 4)
    data = build_data(tokenizer, DataArguments(dataset=file), need_eval=False)
    assert data.train is not None
    assert tokenizer.decode(data.train[0]["input_ids"]) == "say onetwo</s>"


def test_the_end_token_survives_every_cut(tmp_path: Path) -> None:
    """QLoRA cuts the target together with its end token, so that long answers never end."""
    tokenizer = write_tokenizer(tmp_path)
    file = write_rows(tmp_path / "x.jsonl", [{"input": "say", "output": "red blue " * 30}] * 4)
    data = build_data(tokenizer, DataArguments(dataset=file, target_max_len=5), need_eval=False)
    assert data.train is not None and data.train[0]["input_ids"][-1] == tokenizer.eos_token_id
    assert "answers lost their last tokens" in data.report.render()


def test_real_end_tokens_are_attended_where_they_also_pad() -> None:
    """QLoRA's mask is "not the padding token", which hides real end tokens if the end token pads."""
    items = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in ([5, 6, 2], [7, 2])]
    batch = TrainCollator(pad_id=2)(items)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_generation_pads_on_the_left() -> None:
    """QLoRA pads prompts on the right, so that answers of a batch start behind padding."""
    items = [{"input_ids": torch.tensor(ids), "row": {}} for ids in ([5, 6, 7], [8])]
    batch = PredictCollator(pad_id=2)(items)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [2, 2, 8]] and "labels" not in batch


def test_no_token_and_no_embedding_row_is_added(tmp_path: Path) -> None:
    """QLoRA adds [PAD] with a row that is neither trained nor saved; the authors do so and pad with EOS after all."""
    write_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded, model = load_tokenizer(str(tmp_path)), load_base(str(tmp_path), bits=32)
    assert loaded.pad_token_id is not None
    assert len(loaded) == len(tokenizer) == model.get_input_embeddings().weight.shape[0]


# --- QLoRA: model


def training(args: InstructionArguments, precision: Precision) -> Run[InstructionArguments]:
    """A run that trains a new adapter."""
    base = args.model.model_name_or_path
    return Run(args, args.adapter_settings, precision, True, None, None, base, base, None, args.output_dir)


def test_16_bits_are_16_bits(command: Command, flags: dict[str, str]) -> None:
    """QLoRA loads fp32 for --bits 16 without --bf16."""
    args = arguments(flags, bits="16")
    model = load_model(training(args, Precision(16, "bf16", None)))
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert "precision: bf16 base" in command(bits="16").log


@pytest.fixture
def four_bit(flags: dict[str, str]) -> Any:
    """An NF4 base with a new adapter, everything set by flags."""
    pytest.importorskip("bitsandbytes")
    args = arguments(flags, bits="4", quant_type="fp4", double_quant="false", share="a")
    return load_model(training(args, Precision(4, "bf16", None)))


def test_parameters_of_a_4_bit_model_are_counted_right(four_bit: Any, flags: dict[str, str]) -> None:
    """QLoRA halves the trainable count of a 4-bit model and counts packed weights as they lie in memory."""
    plain = load_base(flags["model_name_or_path"], bits=32)
    plan = four_bit.base_model.plans["default"]
    assert count(four_bit).trainable == plan.num_parameters < plan.num_unshared
    assert count(four_bit).total == plan.num_parameters + sum(p.numel() for p in plain.parameters())


def test_the_quantisation_flags_reach_the_model(four_bit: Any) -> None:
    """The authors pass load_in_4bit alone: quantisation type, double quantisation and compute dtype have no effect."""
    config = four_bit.config.quantization_config
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("fp4", False)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_norms_keep_the_dtype_of_the_base(four_bit: Any) -> None:
    """QLoRA raises norms to fp32, the authors force bf16 whatever the flags say; here the flags decide."""
    assert four_bit.get_base_model().model.norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("bits", ["4", "8"])
def test_quantised_bases_train_evaluate_and_predict(command: Command, tmp_path: Path, bits: str) -> None:
    """The authors' script fails on --bits 4 and 8 (NameError); its checkpointing would get no gradient there."""
    pytest.importorskip("bitsandbytes")
    more = {"do_eval": "true", "do_predict": "true", "eval_strategy": "steps", "eval_steps": "1"}
    outcome = command(bits=bits, bf16="true", gradient_checkpointing="true", **more)
    assert outcome.code == 0, outcome.err
    moved = [name for name, matrix in weights(tmp_path / "out" / "adapter_model").items() if "lora_B" in name]
    assert moved and all(weights(tmp_path / "out" / "adapter_model")[name].abs().max() > 0 for name in moved)


# --- QLoRA: checkpoints


def test_a_finished_run_is_not_trained_again_but_evaluated_with_its_adapter(command: Command, tmp_path: Path) -> None:
    """With QLoRA a finished run starts again from nothing, or evaluates and predicts with the bare base model."""
    first = command(do_eval="true", learning_rate="1e-2")
    before = weights(tmp_path / "out" / "adapter_model")
    trained = result(tmp_path / "out")["metrics"]
    again = command(do_eval="true", do_predict="true", learning_rate="1e-2")
    assert first.code == again.code == 0 and "nothing is trained again" in again.log
    assert equal(before, weights(tmp_path / "out" / "adapter_model"))
    found = result(tmp_path / "out", "_evaluate")["metrics"]["eval_loss"]
    assert found == pytest.approx(trained["eval_loss"], rel=1e-6) != trained["eval_loss_before"]
    assert result(tmp_path / "out")["metrics"]["steps"] == 2  # what the training left is still there
    assert {"train_loss", "eval_loss"} <= set(json.loads((tmp_path / "out" / "metrics.json").read_text()))
    assert (tmp_path / "out" / "predictions.jsonl").is_file()


def test_every_checkpoint_holds_its_own_adapter(command: Command, tmp_path: Path) -> None:
    """Both upstreams write current weights into the best checkpoint's folder, and later ones get none."""
    more = {"do_eval": "true", "eval_strategy": "steps", "eval_steps": "1", "save_steps": "1"}
    command(load_best_model_at_end="true", learning_rate="0.5", max_steps="4", **more)
    adapters = [weights(tmp_path / "out" / f"checkpoint-{step}") for step in range(1, 5)]
    assert not any(equal(a, b) for i, a in enumerate(adapters) for b in adapters[:i])
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_global_step"] < 4
    assert equal(weights(tmp_path / "out" / "adapter_model"), adapters[state["best_global_step"] - 1])


def test_the_adapter_file_is_as_large_as_what_was_trained(command: Command, tmp_path: Path) -> None:
    """QLoRA could save files without weights; the authors' files hold a copy of shared matrices for every layer."""
    command(share="ab")
    saved = sum(tensor.numel() for tensor in weights(tmp_path / "out" / "adapter_model").values())
    assert saved == result(tmp_path / "out")["plan"]["trainable"] > 0


def test_what_is_counted_is_what_is_shared(command: Command, tmp_path: Path) -> None:
    """The authors' script prints the number of parameters before it ties them."""
    log = command(share="ab").log
    trainable = result(tmp_path / "out")["plan"]["trainable"]
    assert f"{trainable:,} of " in log and "parameters are trained" in log


# --- QLoRA: prediction


def test_predictions_keep_the_columns_and_cut_the_prompt_by_tokens(command: Command, tmp_path: Path) -> None:
    """QLoRA removes the prompt by replacing text; the authors lose task_id and tidy up spaces in code."""
    rows = [{"input": "a", "output": "b", "task_id": f"t/{i}", "test": "assert  f( 1 )"} for i in range(12)]
    command(dataset=write_rows(tmp_path / "x.jsonl", rows), do_predict="true", max_new_tokens="8")
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        assert row["task_id"].startswith("t/") and row["test"] == "assert  f( 1 )"
        assert row["prediction_with_input"] == "a" + row["prediction"]


def test_an_exclamation_mark_is_an_ordinary_token(tmp_path: Path) -> None:
    """The authors make token 0 the unknown token, which is `!` in GPT-2's and LLaMA-3's vocabularies."""
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    code = 'if a != b: print("hi!")'
    ids = tokenizer(code, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == code
    assert tokenizer.unk_token is None


# --- the ShareLoRA authors' script


def test_no_adapter_order_is_needed(command: Command) -> None:
    """Without --adapter_order the authors' script crashes."""
    assert command().code == 0
    assert command(adapter_order="lora").code == 0


def test_an_interrupted_run_can_be_trained_on(command: Command, tmp_path: Path) -> None:
    """Both upstreams restart optimizer, schedule and step; the authors' adapters cannot even be trained again."""
    folder = tmp_path / "out"
    command(save_steps="1")
    (folder / "completed").unlink()
    for path in (folder / "adapter_model", folder / "checkpoint-2"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    outcome = command(save_steps="1")
    assert outcome.code == 0 and "resuming from" in outcome.log and "checkpoint-1" in outcome.log
    state = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2 and [line["step"] for line in state["log_history"]][:2] == [1, 2]


def test_the_base_model_can_be_evaluated_and_an_adapter_folder_stays_clean(command: Command, tmp_path: Path) -> None:
    """The authors' output_dir is also the adapter: no base can be evaluated, and results land in the checkpoint."""
    command()
    adapter = tmp_path / "out" / "adapter_model"
    files = sorted(adapter.iterdir())
    base, tuned = str(tmp_path / "base"), str(tmp_path / "tuned")
    assert command(do_train="false", do_eval="true", output_dir=base).code == 0
    assert command(adapter=str(adapter), do_eval="true", output_dir=tuned).code == 0
    losses = [result(Path(folder))["metrics"]["eval_loss"] for folder in (base, tuned)]
    assert result(Path(base))["plan"] == {} and result(Path(tuned))["plan"]["trainable"] > 0
    assert losses[1] < losses[0] and sorted(adapter.iterdir()) == files


def test_a_long_prompt_never_loses_its_question(tmp_path: Path) -> None:
    """The authors' GSM8K training cuts 8-shot prompts on the right: no example has its question."""
    tokenizer = write_tokenizer(tmp_path)
    rows = [{"question": f"How many is {i} and {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(8)]
    file = write_rows(tmp_path / "x.jsonl", rows)
    args = DataArguments(dataset=file, dataset_format="GSM8K", source_max_len=160, eval_dataset_size=1)
    data = build_data(tokenizer, args)
    assert data.train is not None
    texts = [tokenizer.decode(data.train[i]["input_ids"]) for i in range(len(data.train))]
    assert all(re.search(r"Question: How many is (\d) and \1\?\s+Answer:", text) for text in texts)


def test_the_test_split_chooses_nothing(tmp_path: Path) -> None:
    """The authors choose checkpoints on the test split of GSM8K and CodeAlpaca."""
    for split, name in (("train", "a"), ("test", "b")):
        write_rows(tmp_path / f"{split}.jsonl", [{"input": f"{name}{i}", "output": "x"} for i in range(30)])
    splits = load_splits(DataArguments(dataset=str(tmp_path), eval_dataset_size=5))
    assert {row["input"][0] for row in splits.eval} == {"a"} and {row["input"][0] for row in splits.test} == {"b"}


def test_the_order_of_training_survives_evaluations(command: Command, tmp_path: Path) -> None:
    """The authors' MMLU callback switches grouping by length off for good at the first evaluation."""
    adapters = []
    for name, changes in (("never", {}), ("always", {"do_eval": "true", "eval_strategy": "steps", "eval_steps": "1"})):
        command(output_dir=str(tmp_path / name), max_steps="3", group_by_length="true", **changes)
        adapters.append(weights(tmp_path / name / "adapter_model"))
    assert equal(*adapters)


def test_evaluation_strategy_means_what_it_meant(command: Command, tmp_path: Path) -> None:
    """Upstream's scripts pass --evaluation_strategy, which today's transformers does not know: it is swallowed."""
    outcome = command(evaluation_strategy="steps", eval_steps="1")
    assert "--evaluation_strategy steps is now --eval_strategy steps" in outcome.log
    assert (tmp_path / "out" / "loss.csv").read_text().count("\n") == 4  # steps 0, 1, 2 and the header


def test_no_path_of_a_person_is_in_the_project() -> None:
    """The authors' scripts name home folders, environments and GPUs of one machine."""
    private = re.compile(r"(/home/\w|/media/\w|/Users/\w|conda activate|CUDA_VISIBLE_DEVICES=\d)")
    folders = [ROOT / name for name in ("sharelora", "qlora_share", "scripts", "eval", "NLU", "NLG", "benchmarks")]
    files = [file for folder in folders for ending in ("*.py", "*.sh") for file in folder.rglob(ending)]
    assert files and not [str(file) for file in files if private.search(file.read_text(encoding="utf-8"))]
