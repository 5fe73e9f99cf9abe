"""Tuning GPT-2 on data-to-text sets: the flags of LoRA's `gpt2_ft.py`, and what is measured."""

from __future__ import annotations

from typing import Any

from sharelora.memory.advice import FlagNames
from sharelora.training.job import Job
from sharelora.training.nlg.data import NlgData, load_data
from sharelora.training.nlg.options import COMMAND, NlgArguments, build_parser, parse
from sharelora.training.nlg.trainer import NlgTrainer, without_dropout
from sharelora.training.run import Run, Session
from sharelora.training.runner import run_job

__all__ = ["JOB", "build_parser", "parse", "run"]


class NlgJob(Job[NlgArguments, NlgData]):
    """Data-to-text, as the runner asks about it."""

    command = COMMAND
    names = FlagNames("train_batch_size", "grad_acc", ("seq_len",), bits=False)
    tiny_base = "gpt2"
    # As in LoRA's files.
    begins = False

    def load_data(self, run: Run[NlgArguments], rows: Any) -> NlgData:
        """Load the tokenizer and the rows."""
        return load_data(run, run.args.nlg)

    def make_trainer(self, run: Run[NlgArguments], data: NlgData, **settings: Any) -> NlgTrainer:
        """Load the model, without the dropout that LoRA's GPT-2 lacks, and make its Trainer."""
        model = self.load_model(run, data)
        without_dropout(model)
        return NlgTrainer(model=model, options=run.args.nlg, **settings)

    def shown(self, data: NlgData) -> dict[str, str]:
        """Show the perplexity."""
        return {"eval_perplexity": "perplexity {:.3f}"}


JOB = NlgJob()


def run(args: NlgArguments) -> Session[NlgArguments, NlgData] | None:
    """Do what the command line asks for, see `sharelora.training.runner.run_job`."""
    return run_job(JOB, args)
