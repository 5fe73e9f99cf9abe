"""No file that a command reads can make it run code: pickles are refused, or never opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from payload import pickled, saved
from safetensors.torch import load_file

from sharelora.convert.importing import import_lora
from sharelora.evaluation.generation.engine import FILE as TEXTS
from sharelora.evaluation.generation.engine import TextStore
from sharelora.layer_groups.similarity import read_similarity
from sharelora.plan.rule import SharingRule
from sharelora.support.errors import UserError
from sharelora.trainer.checkpoints import write_manifest
from sharelora.training.instructions.job import parse, run

# What transformers and PEFT would call them; none is read here.
FOREIGN = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin")
FOREIGN += ("adapter_model.bin", "optimizer.bin", "pytorch_model_fsdp.bin", "README.md")


def test_the_payload_works(tmp_path: Path) -> None:
    """Or the tests below would prove nothing."""
    import pickle

    pickle.loads(pickled(tmp_path / "mark"))
    assert (tmp_path / "mark").is_dir()


@pytest.mark.parametrize("content", [pickled, saved])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "training_state.safetensors", "trainer_state.json"])
def test_a_file_of_a_checkpoint(command: list[str], out: Path, tmp_path: Path, name: str, content: object) -> None:
    """Whoever swaps it can make the manifest fit, so checksums are no defence."""
    assert callable(content)
    (out / "checkpoint-1" / name).write_bytes(content(tmp_path / "mark"))
    write_manifest(out / "checkpoint-1", 1)
    with pytest.raises(UserError):
        run(parse([*command, "--output_dir", str(out)]))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["settings.json", "completed", "checkpoint-1/manifest.json"])
def test_a_file_of_a_run(command: list[str], out: Path, tmp_path: Path, name: str) -> None:
    (out / name).write_bytes(pickled(tmp_path / "mark"))
    with pytest.raises(UserError, match=Path(name).name):
        run(parse([*command, "--output_dir", str(out)]))
    assert not (tmp_path / "mark").exists()


def test_pickles_beside_the_weights_of_a_checkpoint_are_not_opened(
    command: list[str], out: Path, tmp_path: Path
) -> None:
    for name in (*FOREIGN, "adapter_config.json"):
        (out / "checkpoint-1" / name).write_bytes(saved(tmp_path / "mark"))
    write_manifest(out / "checkpoint-1", 1)
    run(parse([*command, "--output_dir", str(out)]))
    assert (out / "completed").is_file() and not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin"])
def test_pickled_weights_alone(command: list[str], out: Path, tmp_path: Path, name: str) -> None:
    (out / "checkpoint-1" / "adapter_model.safetensors").unlink()
    (out / "checkpoint-1" / name).write_bytes(saved(tmp_path / "mark"))
    write_manifest(out / "checkpoint-1", 1)
    with pytest.raises(UserError, match="no weights as safetensors"):
        run(parse([*command, "--output_dir", str(out)]))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet", "rows.pkl"])
def test_a_data_set(command: list[str], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickled(tmp_path / "mark"))
    with pytest.raises(UserError):
        run(parse([*command, "--dataset", str(tmp_path / name), "--output_dir", str(tmp_path / "out")]))
    assert not (tmp_path / "mark").exists()


def test_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"seed: !!python/object/apply:os.mkdir [{tmp_path / 'mark'}]\n")
    with pytest.raises(UserError, match="cannot read the configuration"):
        parse(["--config", str(tmp_path / "run.yaml")])
    assert not (tmp_path / "mark").exists()


def test_an_adapter_for_evaluation(command: list[str], finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished / "adapter_model", tmp_path / "adapter"))
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(saved(tmp_path / "mark"))
    with pytest.raises(UserError, match="pickle"):
        run(parse([*command, "--adapter", str(folder), "--do_eval", "--output_dir", str(tmp_path / "out")]))
    assert not (tmp_path / "mark").exists()


def test_texts_kept_on_disk(tmp_path: Path) -> None:
    """An evaluation goes on from these."""
    (tmp_path / TEXTS).write_bytes(pickled(tmp_path / "mark"))
    with pytest.raises(UserError, match=f"{TEXTS} is damaged"):
        TextStore(tmp_path, {"seed": 0})
    assert not (tmp_path / "mark").exists()


def test_similarities_kept_on_disk(tmp_path: Path) -> None:
    """`--share_layers FILE` reads these."""
    (tmp_path / "similarity.json").write_bytes(pickled(tmp_path / "mark"))
    with pytest.raises(UserError, match=r"similarity\.json"):
        read_similarity(tmp_path / "similarity.json")
    assert not (tmp_path / "mark").exists()


def test_a_flat_file_of_loralib(model_folder: Path, tmp_path: Path) -> None:
    """These are pickles; only the mode that runs no code opens them."""
    (tmp_path / "lora.pt").write_bytes(saved(tmp_path / "mark"))
    with pytest.raises(UserError):
        import_lora(tmp_path / "lora.pt", tmp_path / "new", SharingRule("none"), str(model_folder), 16.0, None)
    assert not (tmp_path / "mark").exists()


def test_code_beside_a_model(command: list[str], model_folder: Path, tmp_path: Path) -> None:
    """A folder can name Python files of its own; they run only with --trust_remote_code."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {name: f"own.{name}" for name in ("AutoConfig", "AutoModelForCausalLM")}
    config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\n")
    with pytest.raises(UserError):
        run(parse([*command, "--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "out")]))
    assert not (tmp_path / "mark").exists()


def test_a_safe_checkpoint_still_goes_on(command: list[str], out: Path, finished: Path) -> None:
    """The folder that the tests above start from is a good one."""
    run(parse([*command, "--output_dir", str(out)]))
    ours, theirs = (load_file(folder / "adapter_model" / "adapter_model.safetensors") for folder in (out, finished))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
