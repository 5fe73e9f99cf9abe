"""The encoder of a run as a classifier: found, checked, and loaded with a head for the task."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from sharelora.data.glue import GlueTask
from sharelora.models.encoders import max_input_length, set_head_dropout
from sharelora.models.known import meta_classifier, model_config
from sharelora.models.load import load_base
from sharelora.support.errors import UserError
from sharelora.support.text import one_line
from sharelora.training.glue.head import head_modules, head_of_other_shape, is_head, named_labels, reorder
from sharelora.training.glue.options import EncoderArguments, GlueArguments
from sharelora.training.glue.record import fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A classifier as it was loaded, before any method.

    Attributes:
        model: in fp32, nothing frozen.
        head: paths of its head's modules.
        trained_head: whether the checkpoint has a head that fits the task.
        fingerprint: tells the backbone from others of the same shape.
    """

    model: Any
    head: tuple[str, ...]
    trained_head: bool
    fingerprint: str


def sequence_length(args: GlueArguments, config: Any, recorded: int | None = None) -> int:
    """Return how many tokens a row may have.

    Args:
        args: the command line.
        config: of the encoder.
        recorded: what an adapter was trained with, which holds where the command line says nothing.

    Raises:
        UserError: more were requested than the model takes.
    """
    limit, length = max_input_length(config), args.data.max_seq_length
    if recorded is not None and "max_seq_length" not in args.given:
        length = recorded
    if limit is None or length <= limit:
        return length
    if "max_seq_length" in args.given:
        raise UserError(f"found --max_seq_length {length}; this model takes at most {limit} tokens; lower it")
    logger.info("note: rows have at most %d tokens, which is all that this model takes", limit)
    return limit


def encoder_config(args: GlueArguments, source: str, task: GlueTask) -> Any:
    """Return the encoder's configuration for a task: labels, kind of loss, and the head's dropout.

    Raises:
        UserError: the model is missing, or has no dropout that --cls_dropout could set.
    """
    config = read_config(args.model, source)
    config.num_labels = task.num_labels
    config.id2label = dict(enumerate(task.labels or ("LABEL_0",)))
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.problem_type = "regression" if task.regression else "single_label_classification"
    if args.model.cls_dropout is not None:
        set_head_dropout(config, args.model.cls_dropout)
    return config


def read_config(model: EncoderArguments, source: str) -> Any:
    """Return the encoder's configuration as it was published.

    Raises:
        UserError: it cannot be read.
    """
    if Path(source).is_dir():
        return model_config(source, model.trust_remote_code)
    try:
        return AutoConfig.from_pretrained(
            source,
            **model.hub,
        )
    except Exception as error:  # of any kind, where a value of it is
        raise UserError(f"the configuration of {source} cannot be read: {one_line(error)}; check the name") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from listing new weights: what matters of it is said here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def load_encoder(args: GlueArguments, source: str, task: GlueTask, own_head: bool) -> Base:
    """Load an encoder with a head for a task.

    Args:
        args: the command line.
        source: folder or hub id.
        task: what the head is for.
        own_head: whether a head in the checkpoint matters; False if another one takes its place anyway.

    Raises:
        UserError: it is missing or damaged, lacks weights of the backbone, or has a head of another task and no
            --new_head.
    """
    before = named_labels(read_config(args.model, source))
    config, model = encoder_config(args, source, task), args.model
    meta_classifier(config)  # refuses a model without one
    report: dict[str, Any] = {}
    options: dict[str, Any] = {"attn_implementation": model.attn_implementation} if model.attn_implementation else {}
    options |= {"config": config, "ignore_mismatched_sizes": True}
    with _quiet():
        encoder = load_base(
            source,
            bits=32,
            **model.hub,
            auto_class=AutoModelForSequenceClassification,
            report=report,
            **options,
        )
    head = head_modules(encoder)
    _check_backbone(source, head, _names(report, "missing_keys") | _names(report, "mismatched_keys"))
    complete = own_head and _settle_head(args, source, task, encoder, head, before, report)
    return Base(encoder, head, complete, fingerprint(encoder, head))


def _names(report: Mapping[str, Any], key: str) -> set[str]:
    """The weights under a key of transformers' report; those of another shape come with their shapes."""
    return {item if isinstance(item, str) else item[0] for item in report.get(key) or ()}


def _check_backbone(source: str, head: tuple[str, ...], absent: set[str]) -> None:
    lost = sorted(name for name in absent if not is_head(name, head))
    if lost:
        raise UserError(
            f"model {source} lacks {len(lost)} weights of its architecture, first {lost[0]}; need a whole encoder; it "
            "may be damaged or of another kind"
        )


def _settle_head(
    args: GlueArguments,
    source: str,
    task: GlueTask,
    model: Any,
    head: tuple[str, ...],
    before: tuple[str, ...],
    report: Mapping[str, Any],
) -> bool:
    """Decide what becomes of the checkpoint's head; return whether it is kept."""
    misfit, missing = sorted(_names(report, "mismatched_keys")), _names(report, "missing_keys")
    labels = tuple(label.lower() for label in task.labels)
    foreign = bool(before) and sorted(before) != sorted(labels) and not missing
    if args.model.new_head and (misfit or not missing):
        logger.info("note: the head of %s is left out, a new one is trained", source)
        renew(model, head)
        return False
    if misfit:
        raise head_of_other_shape(source, [f"{misfit[0]} has another shape"])
    if foreign:
        have, need = ", ".join(before), ", ".join(labels) or "scores"
        raise head_of_other_shape(source, [f"its labels are {have}, those of {task.name} {need}"])
    if before and not missing and before != labels:
        reorder(model, head, before, labels)
        logger.info("note: the outputs of %s are brought into the order %s", source, ", ".join(labels))
    return not missing


def renew(model: Any, head: tuple[str, ...]) -> None:
    """Draw a new head, as transformers does for these models."""
    deviation = getattr(model.config, "initializer_range", 0.02)
    with torch.no_grad():
        for layer in (layer for path in head for layer in model.get_submodule(path).modules()):
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0.0, deviation)
                if layer.bias is not None:
                    layer.bias.zero_()
            elif hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
