"""The model of a run: an encoder with a head, and on it a new or a saved set of what the method trains."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from sharelora.convert.adapter_file import load_tensors
from sharelora.flags.adapter import AdapterSettings
from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError
from sharelora.training.glue.base import Base
from sharelora.training.glue.head import Shape, head_of_other_shape, head_shapes, is_head, misfits
from sharelora.training.glue.methods import BuildSettings, Head, Method, adapted
from sharelora.training.glue.record import WEIGHTS, check_base, put_weights, trained_weights
from sharelora.training.glue.start import Start
from sharelora.tuner.files import WEIGHTS_FILE
from sharelora.tuner.sites import adaptable

logger = logging.getLogger(__name__)

_WRAPPED = re.compile(r"^base_model\.(model\.)?|\.modules_to_save\.default")


@dataclass(frozen=True)
class Counts:
    """Elements of a model, each counted once.

    Attributes:
        trained: those that are trained, the head's left out, as LoRA's paper counts.
        head: those of the head.
        total: of the whole model.
    """

    trained: int
    head: int
    total: int

    def __str__(self) -> str:
        whole = self.trained + self.head
        return (
            f"{self.trained:,} parameters are trained without the head, {whole:,} with it, of {self.total:,} "
            f"({100 * whole / max(1, self.total):.2f} %)"
        )


def plain(name: str) -> str:
    """Return a weight's name in the model itself, without what PEFT puts around it."""
    return _WRAPPED.sub("", name)


def count(model: nn.Module, head: Head) -> Counts:
    """Count a model's elements; the head's original weights, which PEFT keeps as well, do not count."""
    trained = of_head = total = 0
    for name, value in model.named_parameters():
        if ".original_module." in name:
            continue
        total += value.numel()
        if value.requires_grad:
            of_head += value.numel() if is_head(plain(name), head) else 0
            trained += 0 if is_head(plain(name), head) else value.numel()
    return Counts(trained, of_head, total)


def build(base: Base, method: Method, settings: BuildSettings) -> Any:
    """Turn an encoder into the model that the method trains."""
    return method.build(base.model, base.head, settings)


def start_from(base: Base, start: Start, settings: BuildSettings, new_head: bool, training: bool) -> Any:
    """Put saved weights on an encoder.

    Args:
        base: what they were trained on.
        start: the saved weights.
        settings: what the command line says.
        new_head: leave out their head.
        training: they will be trained on; otherwise they are evaluated, and need a head.

    Raises:
        UserError: they are of another model, or their head is of another task.
    """
    if start.record is not None:
        check_base(start.record, base.fingerprint, start.folder)
    need = head_shapes(base.model, base.head)
    low_rank = start.method.storage.load is None
    stored = load_tensors(start.folder / (WEIGHTS_FILE if low_rank else WEIGHTS))
    keeps_head = _keeps_head(base, start, need, stored, new_head, training)
    weights = {name: value for name, value in stored.items() if keeps_head or not is_head(plain(name), base.head)}
    if low_rank:
        return _attach(base, start, settings.adapter, weights)
    recorded = start.record.settings if start.record else {}
    model = build(base, start.method, replace(settings, **recorded))
    fresh = {name: value for name, value in trained_weights(model).items() if is_head(plain(name), base.head)}
    put_weights(model, weights if keeps_head else {**weights, **fresh}, start.source)
    return model


def _keeps_head(
    base: Base, start: Start, need: Mapping[str, Shape], stored: Mapping[str, Tensor], new_head: bool, training: bool
) -> bool:
    """Decide what becomes of the head that was saved, and say so."""
    shapes = {plain(name): tuple(value.shape) for name, value in stored.items() if is_head(plain(name), base.head)}
    if not shapes and not training:
        raise UserError(f"{start.source} holds no head; need a trained one to evaluate; train it with --do_train")
    if not shapes:
        logger.info("note: %s holds no head, a new one is trained", start.source)
        return False
    wrong = misfits(need, shapes)
    if training and new_head:
        logger.info("note: the head of %s is left out%s; a new one is trained", start.source, _reason(wrong))
        return False
    if wrong:
        raise head_of_other_shape(start.source, wrong)
    if training:
        logger.info("note: training starts from the head of %s as well; --new_head starts from a new one", start.source)
    return True


def _reason(wrong: list[str]) -> str:
    return f", {len(wrong)} of its weights do not fit ({wrong[0]})" if wrong else ""


def _check_sites(model: Any, plan: SharingPlan, source: str) -> None:
    """Refuse an adapter for layers that the encoder lacks or has in another shape."""
    modules = dict(model.named_modules())
    for path, entries in plan.by_path.items():
        site, module = entries[0].site, modules.get(path)
        found = tuple(module.weight.shape) if module is not None and adaptable(module) else "none"
        need = site.weight_shape[::-1] if site.embedding else site.weight_shape
        if found != need:
            raise UserError(
                f"{source} was made for another model: for {path} it needs a weight of shape {need}, this model has "
                f"{found}; change --model_name_or_path"
            )


def _attach(base: Base, start: Start, adapter: AdapterSettings, weights: Mapping[str, Tensor]) -> Any:
    """Put a low-rank adapter on, and prove that every weight that is given found its place."""
    config: Any = PeftConfig.from_pretrained(str(start.folder))
    config.base_model_name_or_path, config.inference_mode = None, False
    config.lora_dropout, config.share_dropout_mask = adapter.dropout, adapter.share_dropout_mask
    if config.plan is not None:
        _check_sites(base.model, SharingPlan.from_json(config.plan), start.source)
    model = adapted(base.model, base.head, config)
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    fresh = {name: value for name, value in own.items() if is_head(plain(name), base.head)}
    lost = sorted(own.keys() ^ (weights.keys() | fresh.keys()))
    if lost:
        raise UserError(
            f"{start.source} does not fit this model: {len(lost)} weights differ, first {lost[0]}; "
            "need the base it was trained on; change --model_name_or_path"
        )
    set_peft_model_state_dict(model, {**fresh, **weights})
    return model
