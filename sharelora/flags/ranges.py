"""The ranges of numbers that flags take: those of one meaning, and of the Trainer's settings, by name."""

from __future__ import annotations

from collections.abc import Mapping

from sharelora.flags.parser import Range, positive

SEED = Range(0, 2**32 - 1, whole=True)  # what NumPy takes
COUNT = Range(0, whole=True)
NOT_NEGATIVE = Range(0)
ABOVE_0 = Range(0, above=True)
PART = Range(0, 1, below=True)  # dropout, masking, averages
PART_ABOVE_0 = Range(0, 1, above=True)

# Fields of transformers and of data, which name no range themselves: a number beyond it would make NaN of weights, or
# end in the middle of a run.
RANGES: Mapping[str, Range] = {
    "seed": SEED,
    "data_seed": SEED,
    "per_device_train_batch_size": positive,
    "per_device_eval_batch_size": positive,
    "gradient_accumulation_steps": positive,
    "num_train_epochs": NOT_NEGATIVE,
    "max_steps": Range(-1, whole=True),  # -1 counts epochs
    "learning_rate": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": PART,
    "adam_beta2": PART,
    "adam_epsilon": ABOVE_0,
    "max_grad_norm": NOT_NEGATIVE,
    "label_smoothing_factor": PART,
    "neftune_noise_alpha": NOT_NEGATIVE,
    "torch_empty_cache_steps": positive,
    "logging_steps": NOT_NEGATIVE,
    "eval_steps": NOT_NEGATIVE,
    "eval_delay": NOT_NEGATIVE,
    "save_steps": NOT_NEGATIVE,
    "eval_accumulation_steps": positive,
    "dataloader_num_workers": COUNT,
    "dataloader_prefetch_factor": positive,
    "ddp_bucket_cap_mb": positive,
    "ddp_timeout": positive,
}
