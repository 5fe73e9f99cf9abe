"""What commands read, in one folder: small models, an adapter, data; and the same with one thing wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

TESTS = Path(__file__).resolve().parent.parent
sys.path += [str(TESTS / name) for name in ("training", "nlg", "nlu")]
import small_encoders  # noqa: E402
import small_gpt2  # noqa: E402
import small_llama  # noqa: E402

from sharelora import ShareLoraConfig  # noqa: E402
from sharelora.layer_groups.similarity import Similarity  # noqa: E402
from sharelora.reporting.results import write_result  # noqa: E402
from sharelora.tiny import ensure_tiny, tiny_data, tiny_vision_data  # noqa: E402

MODELS = ("llama", "gpt2", "roberta", "llava")
FILES = ("alpaca.jsonl", "texts.txt", "nlg.txt", "grid.yaml", "similarity.json")


def write(folder: Path) -> Path:
    """Write everything."""
    cache = folder / "made"
    small_llama.write_model(folder / "llama")
    small_gpt2.write_model(folder / "gpt2")
    small_encoders.write_encoder(folder / "roberta")
    shutil.copytree(ensure_tiny("llava", cache, steps=1, progress=lambda done, total: None), folder / "llava")
    shutil.copytree(tiny_data(cache), folder / "data")
    shutil.copytree(tiny_vision_data(cache), folder / "vision")
    shutil.rmtree(cache)
    small_llama.write_data(folder / "alpaca.jsonl")
    small_gpt2.write_rows(folder / "nlg.txt")
    texts = [f"{row['instruction']}: {row['output']}" for row in small_llama.rows(12)]
    (folder / "texts.txt").write_text("\n".join(texts))
    for name, config in (("lora", LoraConfig), ("adapter", ShareLoraConfig)):
        base = AutoModelForCausalLM.from_pretrained(folder / "llama")
        get_peft_model(base, config(target_modules=["q_proj", "v_proj"], r=2)).save_pretrained(folder / name)
    flags = {"model_name_or_path": "{0}/llama", "dataset": "{0}/alpaca.jsonl", "bits": 32, "use_cpu": True}
    (folder / "grid.yaml").write_text(yaml.safe_dump({"flags": flags, "ablations": {"rank": {"lora_r": [2, 4]}}}))
    measured = {"cosine": ((1.0, 0.5), (0.5, 1.0)), "angular": ((1.0, 0.6), (0.6, 1.0))}
    through = {name: (0.5, 0.5) for name in measured}
    Similarity("llama", {"layers": 2}, "texts", "0" * 16, 4, 8, measured, through).write(folder / "similarity.json")
    write_result(folder / "run", "train", {"lora_r": 2}, {"eval_loss": 1.0})
    return folder


def _damaged_weights(folder: Path) -> None:
    for file in folder.glob("*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-64])


def _missing_models(folder: Path) -> None:
    for name in (*MODELS, "lora", "adapter"):
        shutil.rmtree(folder / name)


def _missing_data(folder: Path) -> None:
    for path in [folder / name for name in ("data", "vision", "run", *FILES)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _bad_rows(folder: Path) -> None:
    """The last row of every file lacks what rows have."""
    for file in (path for path in folder.rglob("*") if path.suffix in (".jsonl", ".tsv")):
        file.write_text(file.read_text().rstrip("\n") + '\n{"no": "row"}\n')
    for file in (*folder.glob("data/**/*.json"), *folder.glob("vision/**/*.json")):
        rows = json.loads(file.read_text())
        if isinstance(rows, list):
            file.write_text(json.dumps([*rows, {"no": "row"}]))
    (folder / "nlg.txt").write_text((folder / "nlg.txt").read_text() + "no text\n")
    (folder / "texts.txt").write_bytes(b"no \xff text")
    for name in ("grid.yaml", "similarity.json", "run/result.json"):
        (folder / name).write_text("{")


def _added_tokens(folder: Path) -> None:
    """Common letters behind each other become tokens that no model has an embedding for."""
    for name in MODELS:
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        tokenizer.add_tokens(["ll", "ou", "he", "hi", "an", "wo", "ho", "sa", "ar", "co", "re", "ti"])
        tokenizer.save_pretrained(folder / name)


# What is wrong -> what makes it so, in a copy of the folder.
FAULTS: dict[str, Callable[[Path], None]] = {
    "missing models": _missing_models,
    "missing data": _missing_data,
    "bad rows": _bad_rows,
    "added tokens": _added_tokens,
    "damaged weights": _damaged_weights,
}
