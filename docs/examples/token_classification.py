"""A fifth task in one file: tagging tokens, such as names in a text, with an encoder and shared adapters.

    python docs/examples/token_classification.py --tiny --share a --output_dir runs/tags

docs/new-task.md goes through it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, EvalPrediction

from sharelora.flags.fields import help_field
from sharelora.flags.program import start
from sharelora.memory.advice import FlagNames
from sharelora.models.load import load_base, load_tokenizer
from sharelora.support.errors import UserError, run_main
from sharelora.trainer.trainer import AdapterTrainer
from sharelora.training.arguments import Arguments, CommandLine
from sharelora.training.job import Job
from sharelora.training.model import load_model
from sharelora.training.options import ModelArguments
from sharelora.training.run import Data, Run, Session
from sharelora.training.runner import run_job

IGNORED = -100  # a token without a tag: special ones, and all but the first of a word
Row = dict[str, list[str]]


@dataclass
class TagOptions:
    """The rows, and how they are read."""

    train_file: str | None = help_field(None, "rows to learn, JSON lines with `words` and `tags`; by default made ones")
    eval_file: str | None = help_field(None, "rows to evaluate on; by default made ones")
    max_length: int = help_field(64, "most tokens of a row; the rest is cut off")


@dataclass(frozen=True)
class TagArguments(Arguments):
    """A parsed command line."""

    model: ModelArguments
    data: TagOptions


COMMAND = CommandLine(
    name="token_classification.py",
    purpose="Tune an encoder to tag tokens with shared low-rank adapters.",
    arguments=TagArguments,
    groups={"data": "data", "model": "model"},
    defaults={"bits": 32, "do_train": True, "do_eval": True, "lora_modules": "query,value", "lora_r": 8},
    tiny={"max_steps": 60, "learning_rate": 4e-3, "per_device_train_batch_size": 16},
)


def made_rows() -> list[Row]:
    """Make small rows: every name with every place; the last four have each of them once."""
    names, places = ("Ann", "Bob", "Eve", "Max"), ("Rome", "Oslo", "Bonn", "Lyon")
    pairs = [(names[i % 4], places[(i + i // 4) % 4]) for i in range(16)]
    tags = ["O", "NAME", "O", "O", "PLACE", "O"]
    return [{"words": ["Today", name, "is", "in", place, "."], "tags": tags} for name, place in pairs]


def read_rows(file: str) -> list[Row]:
    """Read rows; a mistake in one is named by its line."""
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows, 1):
        if len(row["words"]) != len(row["tags"]):
            raise UserError(f"{file}:{number}: found {len(row['tags'])} tags; need one for each word; mend the row")
    return rows


@dataclass(frozen=True)
class TagData(Data):
    """The rows of a run, and the tags in the order of the head's outputs."""

    tags: list[str]


def encode(rows: list[Row], tags: list[str], tokenizer: Any, max_length: int) -> list[dict[str, list[int]]]:
    """Tokenise rows; the first token of a word has its tag."""
    encoded = []
    for row in rows:
        tokens = tokenizer(row["words"], is_split_into_words=True, truncation=True, max_length=max_length)
        words, labels = tokens.word_ids(), [IGNORED] * len(tokens["input_ids"])
        for word in range(len(row["words"])):
            if word in words:
                labels[words.index(word)] = tags.index(row["tags"][word])
        encoded.append({"input_ids": tokens["input_ids"], "labels": labels})
    return encoded


def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Return the loss per tag: of a batch, or its part in that of an update."""
    total = F.cross_entropy(outputs.logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
    return total / (num_items_in_batch or (labels != IGNORED).sum())


def accuracy(found: EvalPrediction) -> dict[str, float]:
    """Return the part of the tags that are right."""
    predictions, labels = torch.as_tensor(found.predictions).argmax(-1), torch.as_tensor(found.label_ids)
    return {"accuracy": float((predictions == labels)[labels != IGNORED].float().mean())}


class TagJob(Job[TagArguments, TagData]):
    """Tagging, as the runner asks about it."""

    command = COMMAND
    names = FlagNames("per_device_train_batch_size", "gradient_accumulation_steps", ("max_length",))
    tiny_base = "roberta"
    whole = ("classifier",)  # the head is new, so it is trained as a whole

    def load_data(self, run: Run[TagArguments], rows: Any) -> TagData:
        """Read and tokenise the rows."""
        options, tokenizer = run.args.data, load_tokenizer(run.base, **run.args.model.hub)
        train = read_rows(options.train_file) if options.train_file else made_rows()[:12]
        held = read_rows(options.eval_file) if options.eval_file else made_rows()[12:]
        tags = sorted({tag for row in [*train, *held] for tag in row["tags"]})
        learn, evaluate = (encode(part, tags, tokenizer, options.max_length) for part in (train, held))
        collator = DataCollatorForTokenClassification(tokenizer)
        return TagData(tokenizer, learn, evaluate, collator, options.train_file or "made", {}, tags)

    def load_model(self, run: Run[TagArguments], data: TagData) -> Any:
        """Load the encoder with a head for the tags."""
        load = partial(load_base, auto_class=AutoModelForTokenClassification, num_labels=len(data.tags))
        return load_model(run, load, self.whole, "TOKEN_CLS")

    def make_trainer(self, run: Run[TagArguments], data: TagData, **settings: Any) -> AdapterTrainer:
        """Make the Trainer with this task's loss and metric."""
        model = self.load_model(run, data)
        return AdapterTrainer(model=model, compute_loss_func=loss, compute_metrics=accuracy, **settings)


def run(args: TagArguments) -> Session[TagArguments, TagData] | None:
    """Do what the command line asks for."""
    return run_job(TagJob(), args)


if __name__ == "__main__":
    run_main(lambda: start(COMMAND.parse, run))
