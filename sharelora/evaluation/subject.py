"""The model that a command evaluates, a base with or without an adapter, and the files that the evaluation leaves."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sharelora import ShareLoraConfig, SharingPlan
from sharelora.data.begin import Beginning
from sharelora.data.context import Context
from sharelora.data.find import DATA_FOLDER
from sharelora.evaluation.commands import PREDICTIONS, Options
from sharelora.evaluation.tokens import Encoded
from sharelora.flags.parser import NO_ADAPTER
from sharelora.memory.machine import room_for
from sharelora.models.adapter import load_adapter, recorded_base, resolve_adapter, tuned_with_begin
from sharelora.models.context import context_of
from sharelora.models.known import model_config
from sharelora.models.load import load_base, resolve_model
from sharelora.reporting.environment import peak_memory
from sharelora.reporting.results import describe_plan, plan_facts, write_result
from sharelora.support.errors import UserError
from sharelora.support.files import sha256, write_json_lines
from sharelora.tiny import ensure_tiny, tiny_data
from sharelora.tuner.files import WEIGHTS_FILE, read_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """The model under evaluation.

    Args:
        base: folder or hub id of the base model, or of a merged one.
        adapter: the adapter's folder; None for the bare base.
    """

    base: str
    adapter: Path | None

    def __str__(self) -> str:
        return f"{self.base}, {self.adapter or 'no adapter'}"

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this model from others: the base's name, and the checksum of the adapter's weights."""
        weights = None if self.adapter is None else sha256(self.adapter / WEIGHTS_FILE)
        return {"base": Path(self.base).name, "adapter_sha256": weights}

    def context(self, max_length: int | None) -> int | None:
        """Return the most tokens that the model may read: its context, or less; None if nothing limits them."""
        limits = [self.reads().tokens, max_length]
        return min((limit for limit in limits if limit is not None), default=None)

    def begin(self, tokenizer: Any, bos: str) -> Beginning:
        """Return what prompts begin with, see `Beginning.choose`.

        Args:
            tokenizer: the base's.
            bos: as `--bos` names it.
        """
        return Beginning.choose(tokenizer, bos, None if self.adapter is None else tuned_with_begin(self.adapter))

    def reads(self) -> Context:
        """Return what the model can read."""
        return context_of(model_config(self.base))

    def require_embeddings(self, tokenizer: Any, encoded: Collection[Encoded]) -> None:
        """Refuse prompts and answers with tokens that the model does not know; before it is loaded.

        Raises:
            UserError: see `Context.require_embeddings`.
        """
        rows = (prompt.ids + prompt.answers for prompt in encoded)
        self.reads().require_embeddings(tokenizer, rows, f"{len(encoded):,} prompts")

    def load(self, options: Options, load: Callable[..., Any] = load_base) -> Any:
        """Load the base and put the adapter on it.

        Args:
            options: the flags.
            load: loads the base; takes the options of `load_base`.

        Raises:
            UserError: see `load_base` and `load_adapter`; or memory ran out.
        """
        devices = "auto" if torch.cuda.is_available() else None
        with room_for(self, "--bits 4"):
            base = load(self.base, bits=options.bits, dtype=options.dtype, device_map=devices)
            return base if self.adapter is None else load_adapter(base, self.adapter)


def locate_subject(options: Options, tiny: str = "llama") -> Subject:
    """Find the base model and the adapter.

    Args:
        options: the flags.
        tiny: kind of the small model that --tiny means.

    Raises:
        UserError: one is missing, or neither is named.
    """
    named = options.adapter if (options.adapter or NO_ADAPTER).lower() != NO_ADAPTER else None
    adapter = None if named is None else resolve_adapter(named)
    recorded = None if adapter is None else recorded_base(adapter)
    base = options.model or recorded
    if base is None and adapter is None and options.tiny:
        return Subject(str(ensure_tiny(tiny)), None)
    if base is None:
        what = "an adapter that does not name its base" if adapter else "neither --model nor --adapter"
        raise UserError(f"found {what}; need a base model; add --model DIR")
    if recorded and Path(recorded).name != Path(base).name:
        logger.info("note: the adapter says that it was trained on %s; it is now put on %s", recorded, base)
    return Subject(resolve_model(base), adapter)


def data_root(folder: str | None, tiny: bool) -> Path | None:
    """Return the folder of data sets; None for what the environment or the hub has.

    Args:
        folder: as `--data_root` names it.
        tiny: whether to use the project's own small data where no other is named.
    """
    if folder is None and tiny and not os.environ.get(DATA_FOLDER):
        return tiny_data()
    return None if folder is None else Path(folder)


def write_records(output: str, rows: Iterable[Mapping[str, Any]], name: str = PREDICTIONS) -> Path:
    """Write one record per item into a file of the output folder, atomically; return the file."""
    path = Path(output) / name
    write_json_lines(path, rows)
    return path


def write_evaluation(
    options: Options,
    kind: str,
    subject: Subject | None,
    model: Any,
    rows: Iterable[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    seconds: float,
    begin: Beginning | None = None,
) -> None:
    """Write one record per item and the result, each atomically, into the output folder.

    Args:
        options: the flags.
        kind: of result.
        subject: the model; None where it is not known, as of texts in a file.
        model: the same, loaded; its plan goes into the result. None where nothing was loaded: the plan is then read
            from the adapter's file.
        rows: the records.
        metrics: every number.
        seconds: wall clock time of the whole command.
        begin: what prompts begin with; None where there were none.
    """
    predictions = write_records(options.output, rows)
    asked = {} if begin is None else {"prompts_begin": begin.to_json()}
    base, adapter = (None, None) if subject is None else (subject.base, subject.adapter)
    write_result(
        Path(options.output),
        kind,
        {**vars(options), "model": base, "adapter": adapter and str(adapter)},
        {**metrics, **asked, "peak_memory_bytes": peak_memory()},
        _saved_plan(adapter) if model is None else plan_facts(model),
        {"predictions": predictions, **({} if adapter is None else {"adapter": adapter})},
        seconds,
        model=base,
    )


def _saved_plan(adapter: Path | None) -> dict[str, Any]:
    """Describe the plan in an adapter's file; empty for a plain LoRA or without an adapter."""
    saved = {} if adapter is None else read_config(adapter).get("plan")
    if not saved:
        return {}
    config = ShareLoraConfig.from_pretrained(str(adapter))
    return describe_plan(SharingPlan.from_json(saved), None if config.share_plan is not None else config.rule())
