"""The adapter that a run starts from or evaluates: found, understood, and made into one form."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.convert.importing import import_lora
from sharelora.flags.adapter import SAME
from sharelora.models.adapter import resolve_adapter
from sharelora.plan.rule import rule_fields
from sharelora.support.errors import UserError
from sharelora.support.files import sha256
from sharelora.training.arguments import ADAPTER, MODEL
from sharelora.training.glue.methods import METHODS, SHARING_FLAGS, Method, find_method, method_of
from sharelora.training.glue.options import GlueArguments
from sharelora.training.glue.record import WEIGHTS, Record, read_record
from sharelora.training.run import Run
from sharelora.tuner.config import verify_weights
from sharelora.tuner.files import CONFIG_FILE, check_weights, read_config

logger = logging.getLogger(__name__)

OURS, PLAIN = "SHARELORA", "LORA"
# Flags that must say what the adapter's configuration says.
_NUMBERS = ("lora_r", "lora_alpha", "use_rslora", "use_dora")


@dataclass(frozen=True)
class Start:
    """Trained weights to continue from or to evaluate.

    Attributes:
        folder: where they are, in a form of this project.
        source: as the command line has it, for messages.
        method: what trained them.
        record: what is known about them; None for an adapter from elsewhere.
    """

    folder: Path
    source: str
    method: Method
    record: Record | None


def find_start(run: Run[GlueArguments], source: str) -> Start:
    """Find trained weights: a run's folder or what it saved, a PEFT adapter, or a flat loralib file.

    Args:
        run: its flags must not say another adapter; a plain LoRA is brought into the project's form for its base.
        source: folder, file or hub id.

    Raises:
        UserError: it is missing, damaged, or of another kind than the command line says.
    """
    args, path = run.args, Path(source).expanduser()
    if path.is_file():
        return _imported(run, path, args.values["lora_alpha"] if "lora_alpha" in args.given else None)
    folder = _folder(path) if path.is_dir() else resolve_adapter(source)
    record = read_record(folder)
    if (folder / WEIGHTS).is_file():
        return _recorded(args, folder, source, record)
    config = read_config(folder)
    kind = config.get("peft_type")
    if kind == PLAIN:
        return _imported(run, folder, None)
    if kind != OURS:
        raise UserError(f"{folder} is an adapter of type {kind!r}; need a low-rank one; give another --lora_path")
    verify_weights(folder, config.get("weights_sha256"))
    check_weights(folder, config)
    _check_flags(args, config, folder)
    return Start(folder, source, method_of(_sharing(config)), record)


def _folder(path: Path) -> Path:
    """The folder with the weights: the one given, or the one in a run's folder."""
    for candidate in (path, path / ADAPTER):
        if (candidate / WEIGHTS).is_file():
            return candidate
        if (candidate / CONFIG_FILE).is_file():
            return resolve_adapter(candidate)  # checks what else is there
    whole = next((folder for folder in (path, path / MODEL) if (folder / "config.json").is_file()), None)
    if whole is not None:
        raise UserError(f"{path} holds a whole model, no adapter; pass --model_name_or_path {whole}")
    return resolve_adapter(path)  # says what is there instead


def _recorded(args: GlueArguments, folder: Path, source: str, record: Record | None) -> Start:
    if record is None:
        raise UserError(f"{folder} does not say what its weights are; need its glue_task.json; copy the folder again")
    verify_weights_of(folder, record)
    method = find_method(record.method)
    if _chosen(args) and args.method is not method:
        raise UserError(f"{source} was trained with {method.name}; found {args.method.name}; drop the flag")
    for name in method.settings:
        if name in args.given and args.values[name] != record.settings.get(name):
            raise UserError(f"{source} has {name} {record.settings.get(name)}; found another one; drop --{name}")
    return Start(folder, source, method, record)


def verify_weights_of(folder: Path, record: Record) -> None:
    """Compare weights with the checksum in their record.

    Raises:
        UserError: they were altered.
    """
    if record.weights_sha256 is not None and sha256(folder / WEIGHTS) != record.weights_sha256:
        raise UserError(f"{folder / WEIGHTS} is truncated or altered; copy the folder again from its source")


def _chosen(args: GlueArguments) -> bool:
    """Whether the command line says a method."""
    return bool({"method", "apply_adapter", "apply_bitfit", "apply_lora", *SHARING_FLAGS} & args.given)


def _sharing(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sharing flags that mean an adapter's configuration; defaults are left out."""
    if config.get("share_plan") is not None:
        return {"share_plan": "a plan"}
    groups = config.get("share_groups")
    return {
        "share": config.get("share"),
        "share_modules": config.get("share_modules"),
        "share_across": None if config.get("share_across") == "layers" else config.get("share_across"),
        "share_groups": groups if groups is None or isinstance(groups, str) else str(groups),
    }


def _check_flags(args: GlueArguments, config: Mapping[str, Any], folder: Path) -> None:
    """Refuse flags that say another adapter than the one that is given."""
    values = args.values
    if args.method.sharing is None and _chosen(args):
        raise UserError(f"{folder} is a low-rank adapter; found the method {args.method.name}; drop the flag")
    for flag, name in ((flag, SAME[flag]) for flag in _NUMBERS):
        if flag in args.given and values[flag] != config.get(name):
            raise UserError(f"{folder} has {name} {config.get(name)}; found --{flag} {values[flag]}; drop the flag")
    targets = config.get("target_modules")
    if values["lora_modules"] and isinstance(targets, list):
        asked = args.adapter_settings.modules
        if isinstance(asked, list) and sorted(asked) != sorted(targets):
            raise UserError(
                f"{folder} adapts {', '.join(sorted(targets))}; found --lora_modules {values['lora_modules']}; drop it"
            )
    if _chosen(args) and values["share_plan"] is None and not _same_sharing(args, config):
        raise UserError(
            f"{folder} shares {config.get('share')} across {config.get('share_across')}"
            f"{' in groups' if config.get('share_groups') else ''}; found other sharing flags; drop them"
        )


def _same_sharing(args: GlueArguments, config: Mapping[str, Any]) -> bool:
    rule = args.adapter_settings.rule
    names = ("share", "share_modules", "share_across", "share_groups")
    return rule is not None and all(rule_fields(rule)[name] == config.get(name) for name in names)


def _imported(run: Run[GlueArguments], source: Path, alpha: float | None) -> Start:
    """Bring a plain LoRA into the project's form; its own matrices, unless the command line names a plan they fit."""
    args = run.args
    if args.method.sharing is None and _chosen(args):
        raise UserError(f"{source} is a low-rank adapter; found the method {args.method.name}; drop the flag")
    chosen = args.method if _chosen(args) else METHODS["lora"]
    settings = args.adapter_settings if _chosen(args) else args.adapter_settings.without_sharing()
    folder = run.workspace / "imported"
    done = import_lora(source, folder, settings.sharing, run.base, alpha, settings.enabled)
    logger.info("note: took over %s: %d sites, %s elements", source, done.sites, f"{done.elements:,}")
    return Start(folder, str(source), chosen, read_record(source) if source.is_dir() else None)
