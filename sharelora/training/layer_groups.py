"""Groups of similar layers for a run that measures them itself: `--share_groups auto`."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.grouping import AUTO
from sharelora.layer_groups import Similarity, read_similarity
from sharelora.layer_groups.measure import load_any, model_name
from sharelora.layer_groups.show import render
from sharelora.layer_groups.texts import MAX_LENGTH, Sample, measure, read_sample
from sharelora.models.load import load_tokenizer
from sharelora.support.errors import UserError
from sharelora.trainer.devices import device_map, processes
from sharelora.training.place import data_root
from sharelora.training.preflight import Task

logger = logging.getLogger(__name__)

SAMPLE_SEED = 0  # the groups must not differ between runs of different seeds


def with_model_groups(args: Any, place: str, task: Task) -> Any:
    """Do `with_groups` for a language model, loaded as the run loads it."""
    return with_groups(
        args,
        place,
        started=task.trained is not None,
        bits=task.precision.bits,
        dtype=task.precision.dtype,
        quant_type=args.model.quant_type,
        double_quant=args.model.double_quant,
        **device_map(args.model.max_memory_MB, args.train["use_cpu"]),
    )


def with_groups(args: Any, place: str, started: bool, **options: Any) -> Any:
    """See to it that the similarities which `--share_groups auto` means are in the output folder.

    They are measured once: a run that goes on finds them there, and with them the groups that it began with.

    Args:
        args: the command line of any of the jobs.
        place: folder or hub id of the base.
        started: whether the run goes on from an adapter, whose groups are its own.
        options: of `load_base`: precision and devices.

    Returns:
        The command line with the groups in its adapter's settings; LoRA's in a dry run that would have to measure.

    Raises:
        UserError: flags that contradict each other, texts that cannot be used, several processes, or no two layers that
            are similar enough.
    """
    flags = args.flags

    def read() -> Sample:
        return read_sample(flags.similarity_sample, flags.similarity_texts, SAMPLE_SEED, data_root(args.run))

    return with_measured(args, place, started, read, lambda sample: _measure(args.model, place, sample, options))


def with_measured(
    args: Any,
    place: str,
    started: bool,
    read: Callable[[], Any],
    compare: Callable[[Any], Similarity],
    max_length: int = MAX_LENGTH,
) -> Any:
    """Do `with_groups` for a sample of any kind.

    Args:
        args: the command line of any of the jobs.
        place: folder or hub id of the base.
        started: whether the run goes on from an adapter, whose groups are its own.
        read: reads the sample, which has a `digest`.
        compare: measures the layers on it.
        max_length: most tokens of a part of the sample.

    Returns:
        The command line with the groups in its adapter's settings; LoRA's in a dry run that would have to measure.

    Raises:
        UserError: see `with_groups`.
    """
    settings: AdapterSettings = args.adapter_settings
    measured = settings.measured
    if args.flags.share_groups != AUTO or measured is None:
        return args
    if started:
        raise UserError(f"found --share_groups {AUTO} and an adapter to start from, which has its own groups; drop one")
    sample, file = read(), measured.file
    if _is_measured(file, place, sample.digest, max_length):
        similarity = read_similarity(file)
    elif args.run.dry_run:
        logger.info("note: groups are measured when the run starts; the plan is LoRA's, without groups")
        return replace(args, adapter_settings=settings.without_sharing())
    else:
        _require_one_process(file)
        similarity = compare(sample)
        similarity.write(file)
    settings = settings.with_similarity(similarity)
    assert settings.measured is not None
    logger.info("layers that share:\n%s", render({f"{measured.choice.method}, {file}": settings.measured.grouping}))
    return replace(args, adapter_settings=settings)


def _is_measured(file: Path, place: str, digest: str, max_length: int) -> bool:
    if not file.is_file():
        return False
    before = read_similarity(file)
    return (before.model, before.digest, before.max_length) == (model_name(place), digest, max_length)


def _require_one_process(file: Path) -> None:
    if processes() > 1:
        raise UserError(
            f"found {processes()} processes and no {file}; one process measures; run sharelora similarity first, and "
            "pass --share_groups FILE"
        )


def _measure(model_args: Any, place: str, sample: Sample, options: dict[str, Any]) -> Similarity:
    hub = {
        "revision": model_args.model_revision,
        "token": model_args.hub_token,
        "trust_remote_code": model_args.trust_remote_code,
        "cache_dir": model_args.cache_dir,
    }
    model = load_any(place, **hub, **options)
    found = measure(model, load_tokenizer(place, **hub), sample, place)
    # The run loads the base again, in its own way.
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return found
