"""Tuning on instructions: QLoRA's flags with its defaults, its data, and what is measured on the way."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from sharelora.data import DataModule, build_data, check_isolation, load_splits
from sharelora.data.begin import Beginning
from sharelora.data.mmlu import load_mmlu
from sharelora.flags.program import start
from sharelora.memory.advice import FlagNames
from sharelora.models.adapter import tuned_with_begin
from sharelora.models.context import context_of
from sharelora.models.known import model_config
from sharelora.models.load import load_tokenizer
from sharelora.support.errors import UserError, run_main
from sharelora.trainer.launch import Setup
from sharelora.trainer.trainer import AdapterTrainer
from sharelora.training.instructions.mmlu import MmluEval, mmlu_exam
from sharelora.training.instructions.options import COMMAND, InstructionArguments, build_parser, parse
from sharelora.training.instructions.predictions import PREDICTIONS, predict, write_predictions
from sharelora.training.job import Job
from sharelora.training.run import Data, Run, Session
from sharelora.training.runner import run_job
from sharelora.training.settings import CHOOSING_CHECKPOINT, deciding_settings
from sharelora.training.trainer import ShareTrainer

__all__ = ["COMMAND", "JOB", "build_parser", "parse", "run"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InstructionData(Data):
    """The rows of a run.

    Attributes:
        module: with the prompts of predictions.
        mmlu: asks MMLU's questions at every evaluation; None if they are not asked for.
    """

    module: DataModule
    mmlu: MmluEval | None


InstructionSession = Session[InstructionArguments, InstructionData]


class InstructionJob(Job[InstructionArguments, InstructionData]):
    """Instructions, as the runner asks about them."""

    command = COMMAND
    names = FlagNames(
        "per_device_train_batch_size", "gradient_accumulation_steps", ("source_max_len", "target_max_len")
    )
    trainer = ShareTrainer

    def names_for(self, args: InstructionArguments) -> FlagNames:
        """Return what the command calls the settings that decide about memory."""
        return dataclasses.replace(self.names, rows=("pack_len",)) if args.data.pack_len else self.names

    def check(self, args: InstructionArguments) -> None:
        """Refuse what cannot work: besides the general, choosing the best checkpoint on test data."""
        super().check(args)
        metric = str(args.train["metric_for_best_model"] or "loss").removeprefix("eval_")
        if metric not in ("loss", "mmlu_accuracy"):
            raise UserError(f"found --metric_for_best_model {metric}; need loss or mmlu_accuracy; change it")
        if metric == "mmlu_accuracy" and (args.mmlu.mmlu_split == "test" or not args.mmlu.do_mmlu_eval):
            raise UserError(
                "the best checkpoint is chosen on validation data, never on test; use --do_mmlu_eval --mmlu_split eval"
            )

    def engine(self, args: InstructionArguments) -> Setup:
        """Describe a run to the rules of engines: MMLU lets the model answer during training."""
        described = super().engine(args)
        return dataclasses.replace(described, answers=described.answers or args.mmlu.do_mmlu_eval)

    def deciding(self, args: InstructionArguments) -> dict[str, Any]:
        """Return the settings that decide what is trained; how predictions are written does not."""
        choosing = CHOOSING_CHECKPOINT if args.train["load_best_model_at_end"] else ()
        return deciding_settings(args, choosing, [field.name for field in dataclasses.fields(args.generation)])

    def check_data(self, run: Run[InstructionArguments], rows: Any) -> int | None:
        """Read the rows; without tokens."""
        splits = load_splits(run.args.data, run.data_root)
        if run.args.mmlu.do_mmlu_eval:
            load_mmlu(run.args.mmlu.split, run.data_root)
        return None if run.args.data.packing else len(splits.train)

    def load_data(self, run: Run[InstructionArguments], rows: Any) -> InstructionData:
        """Load the tokenizer, the rows, and MMLU's questions."""
        args = run.args
        tokenizer = load_tokenizer(run.base, **args.model.hub)
        context = context_of(model_config(run.base, args.model.trust_remote_code))
        module = build_data(
            tokenizer,
            args.data,
            need_train=run.training,
            need_eval=args.evaluates,
            need_predict=args.train["do_predict"],
            data_root=run.data_root,
            flat_packing="flash" in (args.model.attn_implementation or ""),
            context=context,
            new_tokens=args.generation.max_new_tokens,
        )
        mmlu = None
        if args.mmlu.do_mmlu_eval:
            begin = Beginning.choose(tokenizer, args.mmlu.bos, _tuned_with_begin(run))
            logger.info("MMLU: %s", begin.line().strip())
            exam = mmlu_exam(
                args.mmlu,
                tokenizer,
                run.base,
                args.data.data_seed,
                run.data_root,
                args.model.trust_remote_code,
                begin.ids,
            )
            mmlu = MmluEval(exam, args.mmlu.mmlu_split, begin)
        return InstructionData(
            tokenizer, module.train, module.eval, module.train_collator, module.splits.origin, module.report.to_json(),
            module, mmlu,
        )  # fmt: skip

    def load_model(self, run: Run[InstructionArguments], data: InstructionData) -> Any:
        """Load the model; with packing, check that the examples of a row do not see each other."""
        model = super().load_model(run, data)
        if run.training and run.args.data.packing:
            rows = 1 if data.collator.flat else run.args.train["per_device_train_batch_size"]
            check_isolation(model, model.get_input_embeddings().weight.shape[0], rows)
        return model

    def make_trainer(self, run: Run[InstructionArguments], data: InstructionData, **settings: Any) -> AdapterTrainer:
        """Make the Trainer; MMLU's accuracies go into its log."""
        trainer = super().make_trainer(run, data, **settings)
        if data.mmlu is not None:
            data.mmlu.log = trainer.log
        return trainer

    def callbacks(self, data: InstructionData) -> list[TrainerCallback]:
        """Return MMLU's callback."""
        return [data.mmlu] if data.mmlu else []

    def predict(self, session: InstructionSession) -> None:
        """Write an answer to every prompt."""
        model, data, settings = session.model, session.data, session.trainer.args
        rows, collator = data.module.predict, data.module.predict_collator
        assert rows is not None, "--do_predict asks for them"
        end = model.generation_config.eos_token_id
        ends = {data.tokenizer.eos_token_id, *(end if isinstance(end, list) else [] if end is None else [end])}
        config = session.args.generation.config(collator.pad_id, sorted(ends))
        answers = predict(model, data.tokenizer, rows, collator, config, settings.eval_batch_size, settings.seed)
        session.metrics["predict_samples"] = len(answers)
        if session.writes:
            logger.info("wrote %s", write_predictions(session.run.folder, answers))

    def files(self, session: InstructionSession) -> dict[str, Any]:
        """Return the files that a result describes."""
        return {**super().files(session), "predictions": session.run.folder / PREDICTIONS}


def _tuned_with_begin(run: Run[InstructionArguments]) -> bool | None:
    """Whether the rows that a run's model is tuned on, or was, begin with the begin token; None if nobody knows."""
    if run.training:
        return True
    # A whole model has no file that says who tuned it.
    return None if run.trained is None or run.args.full else tuned_with_begin(run.trained)


JOB = InstructionJob()


def run(args: InstructionArguments, watch: Sequence[TrainerCallback] = ()) -> InstructionSession | None:
    """Do what the command line asks for, see `sharelora.training.runner.run_job`."""
    return run_job(JOB, args, watch)


def main() -> None:
    """Parse, run, report."""
    start(parse, run)


if __name__ == "__main__":
    run_main(main)
