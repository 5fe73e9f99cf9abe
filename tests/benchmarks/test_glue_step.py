"""The measurement of an encoder's training step: what is compared, what it refuses and writes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.harness import machine
from benchmarks.speed import glue_step
from benchmarks.speed.encoders import encoder_config, prepare
from benchmarks.speed.steps import EncoderCell
from benchmarks.speed.variants import choose
from sharelora import UserError

CPU = torch.device("cpu")
SMALL = EncoderCell(hidden=64, layers=2, rank=4, batch=3, tokens=8)
FLAGS = ["--hidden", "64", "--layers", "2", "--rank", "4", "--batch", "3", "--tokens", "8", "--rounds", "2"]
FLAGS += ["--threads", "1"]


def given(*flags: str) -> argparse.Namespace:
    return glue_step.arguments([*FLAGS, *flags])


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that nobody else uses."""
    monkeypatch.setattr(machine, "others_now", lambda: 0.0)


def test_all_variants_train_on_the_very_same_frozen_weights_with_heads_of_their_own() -> None:
    steps = prepare(SMALL, choose(None, "fp32", glue_step.VARIANTS), CPU)
    assert set(steps) == {"floor", "peft", "loralib", "none", "a", "ab"}
    weights = [{p.data_ptr() for p in step.model.parameters() if not p.requires_grad} for step in steps.values()]
    assert all(found == weights[0] for found in weights[1:])
    heads = [p.data_ptr() for step in steps.values() for n, p in step.model.named_parameters() if "classifier." in n]
    assert len(heads) == len(set(heads)) == 4 * len(steps)


def test_adapters_and_head_of_every_variant_get_a_gradient() -> None:
    for name, step in prepare(SMALL, choose(None, "fp32", glue_step.VARIANTS), CPU).items():
        assert step.forward_backward() > 0
        assert len(step.parameters) > 4 or name == "floor"
        assert all(p.grad is not None and p.grad.any() for p in step.parameters), name
        assert step.batch["inputs_embeds"].grad is not None
        step.update()


def test_with_b_zero_every_variant_computes_the_base_biases_included() -> None:
    steps = prepare(SMALL, ["floor", "peft", "loralib", "none", "ab"], CPU)
    for path, parameter in steps["floor"].model.named_parameters():
        if path.endswith(("query.bias", "value.bias")):
            torch.nn.init.normal_(parameter)
    for step in steps.values():
        for path, parameter in step.model.named_parameters():
            if "lora_B" in path:
                torch.nn.init.zeros_(parameter)
    logits = {name: step.model.eval()(**step.batch).logits for name, step in steps.items()}
    for name, found in logits.items():
        torch.testing.assert_close(found, logits["floor"], msg=name)


def test_the_variants_have_as_many_parameters_as_their_names_say() -> None:
    counts = {
        name: step.adapters for name, step in prepare(SMALL, choose(None, "fp32", glue_step.VARIANTS), CPU).items()
    }
    pair = 2 * 4 * (64 + 64)
    assert counts["floor"] == 0
    assert counts["peft"] == counts["loralib"] == counts["none"] == 2 * pair
    assert (counts["a"], counts["ab"]) == (pair * 3 // 2, pair)


def test_autocast_multiplies_in_bf16_and_keeps_weights_in_fp32() -> None:
    seen: list[torch.dtype] = []
    step = prepare(EncoderCell(64, 1, 4, 2, 4, "bf16_autocast"), ["none"], CPU)["none"]
    layer = step.model.get_submodule("base_model.model.roberta.encoder.layer.0.intermediate.dense")
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    step.forward_backward()
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in step.model.parameters()} == {torch.float32}


def test_the_default_is_roberta_base() -> None:
    config = encoder_config(EncoderCell())
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (768, 12, 3072)
    assert config.num_attention_heads == 12
    default = glue_step.arguments([])
    assert (default.hidden, default.layers, default.rank, default.precision) == (768, 12, 8, "fp32,bf16_autocast")
    quick = glue_step.arguments(["--quick", "--layers", "3"])
    assert (quick.hidden, quick.layers) == (128, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_a_measurement_has_all_its_fields() -> None:
    result = glue_step.measure(given())
    assert [row["cell"]["precision"] for row in result["cells"]] == ["fp32", "bf16_autocast"]
    for row in result["cells"]:
        for name, found in row["variants"].items():
            assert found["step"]["count"] == 2 and 0 < found["step"]["least"] <= found["step"]["median"], name
            assert found["speedup"]["median"] > 0 and (found["adapters"] > 0) == (name != "floor")
        assert row["variants"]["floor"]["to_floor"]["median"] == row["variants"]["peft"]["speedup"]["median"] == 1
    text = glue_step.markdown(result)
    assert "## bf16_autocast: hidden 64, 2 layers, rank 4, 3 x 8 tokens" in text
    assert "| steps/s |" in text and "loralib" in text


@pytest.mark.slow
def test_the_program_writes_json_and_a_table(tmp_path: Path, root: Path) -> None:
    flags = [*FLAGS, "--variants", "floor,a", "--precision", "fp32", "--force", "--save", str(tmp_path)]
    program = [sys.executable, str(root / "benchmarks" / "speed" / "glue_step.py"), *flags]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("glue_step-*.json")
    result = json.loads(file.read_text())
    assert result["kind"] == "glue_step" and list(result["cells"][0]["variants"]) == ["floor", "a"]
    assert file.with_suffix(".md").read_text() in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--precision", "fp64"], "--precision 'fp64' is unknown; need some of fp32, bf16_autocast"),
        (["--hidden", "100"], "found hidden 100, .* need a hidden size that 64 divides"),
        (["--batch", "0"], "batch 0"),
        (["--variants", "lora"], "no variant 'lora'"),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_bad_input_is_named(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        glue_step.measure(given(*flags))
