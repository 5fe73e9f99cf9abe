"""The methods that are compared, one row each: what they train, how they are built, and what they are saved as."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharelora.flags import grouping
from sharelora.flags.adapter import AdapterSettings
from sharelora.support.errors import UserError
from sharelora.support.text import nearest
from sharelora.training.arguments import ADAPTER, MODEL

# The parser reads this table: imports inside functions load torch and PEFT, which takes seconds.

Head = Sequence[str]  # paths of the modules that make up the head


@dataclass(frozen=True)
class BuildSettings:
    """What methods are built with.

    Attributes:
        adapter: of those that train low-rank matrices.
        adapter_size: width of bottlenecks.
        prefix_length: keys and values in each layer.
    """

    adapter: AdapterSettings
    adapter_size: int
    prefix_length: int


Build = Callable[[Any, Head, BuildSettings], Any]


@dataclass(frozen=True)
class Storage:
    """What trained weights are saved as.

    Attributes:
        folder: name of the folder in a run's folder.
        save: write a model's trained weights into a folder.
        load: put them back into a model that is built already; None where the Trainer does it.
    """

    folder: str
    save: Callable[[Any, Path], None]
    load: Callable[[Any, Path], None] | None = None


def _save_trained(model: Any, folder: Path) -> None:
    from sharelora.training.glue.record import WEIGHTS, trained_weights, write_weights

    write_weights(folder / WEIGHTS, trained_weights(model))


def _load_trained(model: Any, folder: Path) -> None:
    from sharelora.training.glue.record import WEIGHTS, put_weights, read_weights

    put_weights(model, read_weights(folder / WEIGHTS)[0], str(folder))


def _save_with_peft(model: Any, folder: Path) -> None:
    from sharelora.trainer.trainer import save_weights

    save_weights(model, folder)


PEFT = Storage(ADAPTER, _save_with_peft)
WHOLE = Storage(MODEL, _save_with_peft)
TRAINED = Storage(ADAPTER, _save_trained, _load_trained)


def _only(model: Any, head: Head) -> None:
    """Freeze everything but the head."""
    model.requires_grad_(False)
    for path in head:
        model.get_submodule(path).requires_grad_(True)


def _low_rank(model: Any, head: Head, settings: BuildSettings) -> Any:
    return adapted(model, head, settings.adapter.config(model))


def adapted(model: Any, head: Head, config: Any) -> Any:
    """Put a low-rank adapter on a classifier, whose head trains with it and is saved with it."""
    config.task_type, config.modules_to_save = "SEQ_CLS", list(head)
    from peft import get_peft_model

    made = get_peft_model(model, config)
    # PEFT adds its own guesses at the head's name to the list, again at every loading.
    made.peft_config["default"].modules_to_save = list(head)
    return made


def _every_weight(model: Any, head: Head, settings: BuildSettings) -> Any:
    return model.requires_grad_(True)


def _biases(model: Any, head: Head, settings: BuildSettings) -> Any:
    _only(model, head)
    for name, weight in model.named_parameters():
        weight.requires_grad_(weight.requires_grad or "bias" in name)
    return model


def _bottlenecks(kind: str) -> Build:
    def build(model: Any, head: Head, settings: BuildSettings) -> Any:
        from sharelora.training.glue.baselines import insert_bottlenecks

        _only(model, head)
        for adapter in insert_bottlenecks(model, kind, settings.adapter_size):
            adapter.requires_grad_(True)
        return model

    return build


def _prefix(model: Any, head: Head, settings: BuildSettings) -> Any:
    from sharelora.training.glue.baselines import insert_prefixes

    _only(model, head)
    for prefix in insert_prefixes(model, settings.prefix_length):
        prefix.requires_grad_(True)
    return model


@dataclass(frozen=True)
class Method:
    """One way to tune an encoder.

    Attributes:
        name: for `--method`.
        purpose: one line for people.
        learning_rate: the default, where the command line has none.
        build: turn a base into the model that trains.
        storage: what trained weights are saved as.
        sharing: the sharing flags that the name means; None where nothing is low-rank.
        settings: flags that are needed to build it again.
    """

    name: str
    purpose: str
    learning_rate: float
    build: Build
    storage: Storage
    sharing: Mapping[str, str] | None = None
    settings: Sequence[str] = field(default=())


def _shared(name: str, purpose: str, **sharing: str) -> Method:
    # LoRA's rate for most tasks with RoBERTa-base.
    return Method(name, purpose, 4e-4, _low_rank, PEFT, sharing)


EVERY = (
    _shared("lora", "LoRA: an A and a B for every adapted layer", share="none"),
    _shared("share_a", "one A per kind of module for all layers, a B for each", share="a"),
    _shared("share_b", "one B per kind of module for all layers, an A for each", share="b"),
    _shared("share_ab", "one A and one B per kind of module for all layers", share="ab"),
    _shared("odd_even", "A and B shared within pairs of neighbouring layers", share="ab", share_groups="odd_even"),
    Method("full", "every weight of the model", 2e-5, _every_weight, WHOLE),
    Method("bitfit", "every bias", 1e-3, _biases, TRAINED),
    Method(
        "houlsby", "a bottleneck after attention and after the feed-forward network", 3e-4, _bottlenecks("houlsby"),
        TRAINED, settings=("adapter_size",),
    ),
    Method(
        "pfeiffer", "a bottleneck after the feed-forward network", 3e-4, _bottlenecks("pfeiffer"),
        TRAINED, settings=("adapter_size",),
    ),
    Method(
        "parallel", "a bottleneck parallel to the feed-forward network", 3e-4, _bottlenecks("parallel"),
        TRAINED, settings=("adapter_size",),
    ),
    Method(
        "prefix", "keys and values in front of those of the text, in every layer", 1e-2, _prefix,
        TRAINED, settings=("prefix_length",),
    ),
)  # fmt: skip
METHODS: Mapping[str, Method] = {method.name: method for method in EVERY}
# A plan that no row describes.
OTHER_SHARING = _shared("share", "what the sharing flags say")


# Which method a command line means: by its name, by LoRA's own switches, or by the sharing flags.

SHARING_FLAGS = ("share", "share_modules", "share_across", "share_groups", "share_plan")
LOW_RANK_FLAGS = (
    *SHARING_FLAGS, *grouping.FLAGS,
    "lora_modules", "lora_r", "lora_alpha", "lora_dropout", "share_dropout_mask", "use_rslora", "use_dora",
    "enable_lora",
)  # fmt: skip


def method_of(sharing: Mapping[str, Any]) -> Method:
    """Return the row that sharing flags mean, or the one for any other plan.

    Args:
        sharing: flag -> value, those that are given; without any, A is shared.
    """
    named = {name: value for name, value in sharing.items() if value is not None} or {"share": "a"}
    return next((method for method in EVERY if method.sharing == named), OTHER_SHARING)


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        UserError: it does not exist; the nearest one is named.
    """
    if name in METHODS:
        return METHODS[name]
    near = nearest(name, METHODS)
    hint = f"did you mean {near[0]}?" if near else "change --method"
    raise UserError(f"found --method {name}; need one of {', '.join(METHODS)}; {hint}")


def choose_method(flags: argparse.Namespace, given: Collection[str]) -> Method:
    """Return what --method, LoRA's own switches and the sharing flags say together.

    Args:
        flags: the parsed command line.
        given: the flags that it has.

    Raises:
        UserError: they contradict each other.
    """
    asked = {flag: name for flag, name in _switches(flags).items() if name is not None}
    names = sorted(set(asked.values()))
    if len(names) > 1:
        raise UserError(f"found {' and '.join(f'--{flag}' for flag in asked)}; need one method; drop all but one")
    chosen = find_method(names[0]) if names else None
    if flags.apply_lora is False and chosen is None:
        raise UserError("found --apply_lora false; need what trains instead; pass --method full, bitfit, houlsby, ...")
    if chosen is None:
        sharing = {name: getattr(flags, name) for name in SHARING_FLAGS}
        plain = flags.apply_lora and not any(sharing.values())
        return METHODS["lora"] if plain else method_of(sharing)
    _check_agreement(chosen, flags, given)
    return chosen


def _switches(flags: argparse.Namespace) -> dict[str, str | None]:
    return {
        "method": flags.method,
        "apply_adapter": flags.adapter_type if flags.apply_adapter else None,
        "apply_bitfit": "bitfit" if flags.apply_bitfit else None,
    }


def _check_agreement(method: Method, flags: argparse.Namespace, given: Collection[str]) -> None:
    if method.sharing is None:
        unused = [name for name in LOW_RANK_FLAGS if name in given]
        if unused or flags.apply_lora:
            name = unused[0] if unused else "apply_lora"
            raise UserError(f"found --{name} with the method {method.name}, which has no low-rank matrices; drop one")
        return
    for name, value in method.sharing.items():
        if name in given and getattr(flags, name) != value:
            raise UserError(
                f"found --{name} {getattr(flags, name)} with the method {method.name}, which means {value}; drop one"
            )
