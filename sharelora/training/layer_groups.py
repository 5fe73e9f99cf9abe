"""Groups of similar layers for a run that measures them itself: `--share_groups auto`."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sharelora.flags.grouping import AUTO
from sharelora.layer_groups import Similarity, read_similarity
from sharelora.layer_groups.measure import load_any, model_name
from sharelora.layer_groups.show import render
from sharelora.layer_groups.texts import MAX_LENGTH, Sample, measure, read_sample
from sharelora.models.load import load_tokenizer
from sharelora.support.errors import UserError
from sharelora.trainer.devices import processes
from sharelora.training.model import base_options
from sharelora.training.run import Run

logger = logging.getLogger(__name__)

SAMPLE_SEED = 0  # the groups must not differ between runs of different seeds


def group_on_texts(run: Run[Any], begins: bool = True) -> Run[Any]:
    """Make sure that the similarities that `--share_groups auto` means are in the output folder.

    They are measured once, on texts, with the base loaded as the run loads it: a resumed run finds them there, and
    with them its first groups.

    Args:
        run: see `with_measured`.
        begins: whether the run's rows begin with the begin token; texts then do too.

    Returns:
        The run with the groups in its adapter's settings; LoRA's in a dry run that would have to measure.

    Raises:
        UserError: flags that contradict each other, texts that cannot be used, several processes, or no two layers that
            are similar enough.
    """
    values = run.args.values

    def read() -> Sample:
        return read_sample(values["similarity_sample"], values["similarity_texts"], SAMPLE_SEED, run.data_root)

    return with_measured(run, read, lambda sample: _measure(run, sample, begins))


def with_measured(
    run: Run[Any], read: Callable[[], Any], compare: Callable[[Any], Similarity], max_length: int = MAX_LENGTH
) -> Run[Any]:
    """Do `group_on_texts` for a sample of any kind.

    Args:
        run: must not start from an adapter, which has its own groups.
        read: reads the sample, which has a `digest`.
        compare: measures the layers on it.
        max_length: most tokens of a part of the sample.

    Raises:
        UserError: see `group_on_texts`.
    """
    if run.args.values["share_groups"] != AUTO:
        return run
    if run.trained is not None:
        raise UserError(f"found --share_groups {AUTO} and an adapter to start from, which has its own groups; drop one")
    measured = run.adapter.measured
    if measured is None:
        return run
    sample, file = read(), measured.file
    if _is_measured(file, run.base, sample.digest, max_length):
        similarity = read_similarity(file)
    elif run.args.run.dry_run:
        logger.info("note: groups are measured when the run starts; the plan is LoRA's, without groups")
        return replace(run, adapter=run.adapter.without_sharing())
    elif processes() > 1:
        raise UserError(
            f"found {processes()} processes and no {file}; one process measures; run sharelora similarity first, and "
            "pass --share_groups FILE"
        )
    else:
        similarity = compare(sample)
        similarity.write(file)
        # The run loads the base again, in its own way.
        gc.collect()
        torch.cuda.empty_cache()
    adapter = run.adapter.with_similarity(similarity)
    assert adapter.measured is not None, "it was, above"
    logger.info("layers that share:\n%s", render({f"{measured.choice.method}, {file}": adapter.measured.grouping}))
    return replace(run, adapter=adapter)


def _is_measured(file: Path, base: str, digest: str, max_length: int) -> bool:
    if not file.is_file():
        return False
    before = read_similarity(file)
    return (before.model, before.digest, before.max_length) == (model_name(base), digest, max_length)


def _measure(run: Run[Any], sample: Sample, begins: bool) -> Similarity:
    model = load_any(run.base, **base_options(run))
    tokenizer = load_tokenizer(run.base, **run.args.model.hub)
    return measure(model, tokenizer, sample, run.base, begin=None if begins else ())
