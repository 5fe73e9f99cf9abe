"""A small model and small tasks for sequences of tasks, and the command in this process."""

from __future__ import annotations

import sys
from pathlib import Path

from commands import write_rows

from sharelora.continual import command

sys.path.append(str(Path(__file__).resolve().parent.parent / "training"))
from small_llama import WORDS, rows, write_model

FLAGS = (
    "--bits 32 --optim adamw_torch --use_cpu --max_steps 2 --save_steps 1 --logging_steps 1 --lora_r 2 --seed 3"
    " --lora_modules q_proj,v_proj --learning_rate 5e-2 --per_device_train_batch_size 4 --per_device_eval_batch_size 3"
    " --gradient_accumulation_steps 1 --gradient_checkpointing false --source_max_len 160 --target_max_len 32"
    " --eval_dataset_size 8 --few_shot 0 --max_new_tokens 4"
).split()


def write_base(folder: Path) -> Path:
    """A random LLaMA of two layers."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_model(folder)


def write_tasks(folder: Path) -> Path:
    """Forty rows of every task, and some test problems, below a folder of data."""
    write_rows(folder / "alpaca" / "alpaca_data.jsonl", rows(40))
    code = [{"instruction": f"code {row['instruction']}", "input": "", "output": "red = 1"} for row in rows(40)]
    write_rows(folder / "codealpaca" / "code_alpaca_20k.jsonl", code)
    sums = [{"question": f"How many {WORDS[n % 9]} at {n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(40)]
    write_rows(folder / "gsm8k" / "train.jsonl", sums)
    write_rows(folder / "gsm8k" / "test.jsonl", sums[:5])
    return folder


def words(model: Path, out: Path, *more: str) -> list[str]:
    """The command line of a short run; flags put behind it win."""
    return ["--model", str(model), "--output", str(out), *FLAGS, *more]


def tune(model: Path, out: Path, *more: str) -> None:
    """Run the command."""
    args, rest = command.read(words(model, out, *more))
    command.run(args, rest, 0.0)
