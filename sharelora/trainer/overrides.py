"""The methods of transformers' Trainer that are overridden, each with the reason and the parameters it has there.

Most are private, so a new version may change them without notice: `changed` names those that it did.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import Trainer

VERSION = "5.23.0"  # of transformers, whose parameters these are


@dataclass(frozen=True)
class Override:
    """A method of transformers' Trainer that is overridden.

    Attributes:
        name: of the method.
        why: what the Trainer's own would get wrong.
        parameters: of the Trainer's own, without `self`, with their defaults.
    """

    name: str
    why: str
    parameters: str


# In the order in which `sharelora.trainer.trainer.AdapterTrainer` has them.
OVERRIDES = (
    # Rows
    Override(
        "_get_train_sampler",
        "it draws from the global generator, and the order depends on the number of processes",
        "train_dataset=None",
    ),
    Override("_get_eval_sampler", "it groups evaluation as it groups training", "eval_dataset"),
    # Engines
    Override("create_optimizer", "DeepSpeed loses the groups of the optimizer", "model=None"),
    Override("create_scheduler", "DeepSpeed's optimizer updates too early", "num_training_steps, optimizer=None"),
    Override(
        "_prepare_for_training",
        "it shards the model before the weights of a checkpoint are in it, and looks for one in DeepSpeed's format",
        "max_steps, train_dataloader, resume_from_checkpoint",
    ),
    # An update
    Override("training_step", "nothing looks at the loss", "model, inputs, num_items_in_batch=None"),
    Override("_get_grad_norm", "nothing looks at the norm, or at that of shared matrices", "model, grad_norm=None"),
    # Between updates
    Override(
        "_maybe_log_save_evaluate",
        "signals are not heard, and skipped updates count in the mean loss",
        "tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None",
    ),
    Override(
        "_evaluate",
        "a signal waits for its end, and it draws random numbers that training then lacks",
        "trial, ignore_keys_for_eval, skip_scheduler=False",
    ),
    Override("_determine_best_metric", "the best weights may be in no checkpoint", "metrics, trial"),
    Override(
        "log", "it lacks what callbacks measured, and the updates before an interruption", "logs, start_time=None"
    ),
    # Saving
    Override(
        "_save_checkpoint",
        "checkpoints may be half written, and lack what exact resumption needs",
        "model, trial",
    ),
    Override("_save", "it adds the tokenizer and pickled arguments", "output_dir=None, state_dict=None"),
    # Resuming
    Override("_load_optimizer_and_scheduler", "it reads pickles, and no sharded state", "checkpoint"),
    Override("_load_from_checkpoint", "it prefers a pickle in the folder", "resume_from_checkpoint, model=None"),
    Override("_load_scaler", "it reads a pickle", "checkpoint"),
    Override("_load_rng_state", "it reads a pickle, and knows one GPU of each process", "checkpoint"),
    Override(
        "_init_training_state",
        "it keeps the old rhythm of logs and checkpoints, and the old path of the best one",
        "max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial",
    ),
    Override(
        "_run_epoch",
        "resumed from the last update in the middle of an epoch, it does one more",
        "model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, ignore_keys_for_eval, "
        "start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch",
    ),
    Override(
        "_finalize_training",
        "it deletes all checkpoints but the best before the trained weights are written",
        "trial, num_train_samples, start_time",
    ),
)
# The Trainers of tasks override these too.
TASK_OVERRIDES = (
    Override("compute_loss", "a task has its own loss", "model, inputs, return_outputs=False, num_items_in_batch=None"),
    Override("_get_num_items_in_batch", "it counts tokens, not examples", "batch_samples, device"),
    Override(
        "prediction_step",
        "the loss is needed row by row, or not at all",
        "model, inputs, prediction_loss_only, ignore_keys=None",
    ),
    Override(
        "evaluation_loop",
        "its mean over batches changes with the batch size",
        "dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix='eval'",
    ),
    Override(
        "evaluate",
        "the best weights are kept in memory",
        "eval_dataset=None, ignore_keys=None, metric_key_prefix='eval'",
    ),
    Override("get_decay_parameter_names", "LoRA's script decays other parameters", "model"),
)
# Private attributes of transformers' Trainer that are read or set.
ATTRIBUTES = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_created_lr_scheduler")


def changed(trainer: type[Trainer] = Trainer) -> Iterator[str]:
    """Name what the installed transformers has no more, or with other parameters."""
    for override in (*OVERRIDES, *TASK_OVERRIDES):
        method = getattr(trainer, override.name, None)
        if method is None:
            yield f"Trainer.{override.name} is gone"
            continue
        own = list(inspect.signature(method).parameters.values())[1:]
        parameters = ", ".join(str(each.replace(annotation=inspect.Parameter.empty)) for each in own)
        if parameters != override.parameters:
            yield f"Trainer.{override.name} takes ({parameters}); transformers {VERSION} has ({override.parameters})"
    source = inspect.getsource(trainer)
    yield from (f"Trainer.{name} is gone" for name in ATTRIBUTES if f"self.{name} = " not in source)


def unlisted(trainer: type[Trainer], listed: tuple[Override, ...]) -> set[str]:
    """Return the methods of transformers' Trainer that a class overrides itself without being in a list."""
    theirs = {name for name, value in vars(trainer).items() if callable(value) and hasattr(Trainer, name)}
    return theirs - {"__init__"} - {override.name for override in listed}
