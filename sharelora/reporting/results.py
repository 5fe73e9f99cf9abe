"""`result.json`, the record of a run: written here, and read back together with the files of upstream runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.reporting.environment import command_line, git_commit, machine_facts, versions
from sharelora.support.errors import UserError
from sharelora.support.files import sha256, write_json
from sharelora.support.reading import NAME, read_json, require_shape
from sharelora.support.tensor_header import tensor_shapes
from sharelora.tuner.files import PICKLE_FILE, WEIGHTS_FILE

SCHEMA = 1
OURS = ("result.json", "result_*.json")
# LoRA's run_glue.py and every other user of the Trainer; QLoRA's qlora.py.
TRAINER = ("all_results.json", "eval_results*.json", "train_results*.json", "test_results*.json")
QLORA = ("metrics.json",)
_WORD, _COUNT = (NAME, None), range(1 << 63)
# What a result has to be, see `sharelora.support.reading`.
_SHAPE: Mapping[str, Any] = {
    **{"kind": NAME, "metrics": dict, "run?": _WORD, "command?": (str, None), "model?": _WORD, "git?": _WORD},
    **{"seed?": (int, None), "seconds?": (float, None), "started?": _WORD, "finished?": _WORD, "config?": dict},
    **{"versions?": dict, "machine?": dict, "files?": {...: {"bytes?": _COUNT, "sha256?": NAME, "elements?": _COUNT}}},
    "plan?": {"share?": _WORD, "hash?": _WORD, "trainable?": (_COUNT, None), "unshared?": (_COUNT, None)},
}
_UPSTREAM: Mapping[str, Any] = {"run_name?": _WORD, "train_runtime?": (float, None)}


@dataclass(frozen=True)
class Result:
    """What one run did, on what, and how it came out.

    Attributes:
        path: the file it was read from.
        kind: what ran: `train`, `mmlu`, ...; of an upstream file, `lora` or `qlora`.
        run: the run's name, None for "named after its folder".
        metrics: name -> number; nested values (per subject, say) are kept and not compared.
        config: all settings of the run.
        plan: `share`, `hash`, `trainable`, `unshared`, ... as `describe_plan` returns; empty without an adapter.
        files: name -> `path`, `bytes`, `sha256`, `elements`; the adapter is called `adapter`.
        seconds: wall clock time of the run.
    """

    path: Path
    kind: str
    metrics: dict[str, Any]
    run: str | None = None
    command: str | None = None
    model: str | None = None
    seed: int | None = None
    seconds: float | None = None
    started: str | None = None
    finished: str | None = None
    git: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def adapter(self) -> dict[str, Any]:
        """The description of the adapter's file, empty if the run has none."""
        return self.files.get("adapter", {})


def describe_rule(rule: SharingRule | None) -> str:
    """Say in a few words what a rule shares; None for a plan written by hand."""
    if rule is None:
        return "plan"
    words = [rule.share]
    if rule.modules is not None:
        words.append(",".join(rule.modules))
    if rule.across != "layers":
        words.append({"modules": "over modules", "both": "over all"}[rule.across])
    if rule.groups is not None:
        words.append(rule.groups if isinstance(rule.groups, str) else f"{len(rule.groups)} groups")
    return " ".join(words)


def describe_plan(plan: SharingPlan, rule: SharingRule | None) -> dict[str, Any]:
    """Return what a result says about a plan: what is shared, hash and counts."""
    return {
        "share": describe_rule(rule),
        "hash": plan.hash,
        "trainable": plan.num_parameters,
        "unshared": plan.num_unshared,
        "sites": len(plan.entries),
        "matrices": len(plan.matrices),
        "ranks": sorted({entry.r for entry in plan.entries}),
    }


def describe_file(path: str | Path) -> dict[str, Any]:
    """Return a file's path, bytes, SHA-256 and, for safetensors, the elements of all its tensors.

    Args:
        path: a file, or an adapter's folder, then the weights in it.

    Raises:
        UserError: no such file.
    """
    path = Path(path)
    path = path / WEIGHTS_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"no file {path}; a result can describe only files that were written")
    facts = {"path": str(path.resolve()), "bytes": path.stat().st_size, "sha256": sha256(path)}
    if path.suffix == ".safetensors":
        facts["elements"] = sum(math.prod(shape) for shape in tensor_shapes(path).values())
    return facts


def _plain(value: Any) -> Any:
    """Turn a value into JSON data: paths, dtypes, enums and non-finite numbers become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or type(value) in (bool, int, float, str) else _number_or_text(value)


def _number_or_text(value: Any) -> Any:
    # Scalars of numpy and torch are numbers too; so is a subclass of int such as IntEnum.
    item = getattr(value, "item", None)
    return _plain(item()) if callable(item) and getattr(value, "ndim", None) == 0 else str(value)


def _own_file(folder: Path, kind: str) -> Path:
    """Return the file for a result of this kind: never that of a result of another kind."""
    path = folder / "result.json"
    if path.is_file() and read_json(path).get("kind") != kind:
        return folder / f"result_{kind}.json"
    return path


def write_result(
    folder: str | Path,
    kind: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    plan: Mapping[str, Any] | None = None,
    files: Mapping[str, str | Path] | None = None,
    seconds: float | None = None,
    *,
    model: str | None = None,
    run: str | None = None,
    seed: int | None = None,
    command: str | None = None,
) -> Path:
    """Write the result of a run to `folder/result.json`, atomically, with all that is needed to repeat it.

    A result of another kind that is already there stays: the new one is then called `result_<kind>.json`.

    Args:
        folder: the run's folder.
        kind: `train`, `mmlu`, ...
        config: all settings.
        metrics: name -> number, or nested data.
        plan: as `describe_plan` returns; None for a base model without an adapter.
        files: name -> path. The adapter, called `adapter`, may be a folder; results of equal adapters are compared
            in one row.
        seconds: wall clock time of the run.
        model: the base model's name or path.
        run: a name for tables; None means the folder's name.
        seed: None takes `seed` from the configuration.
        command: None means this process's command line.

    Returns:
        The file.
    """
    now = datetime.now(UTC)
    path = _own_file(Path(folder), kind)
    result = Result(
        path=path,
        kind=kind,
        run=run,
        command=command or command_line(),
        model=model,
        seed=config.get("seed") if seed is None else seed,
        seconds=seconds,
        started=(now - timedelta(seconds=seconds or 0)).isoformat(timespec="seconds"),
        finished=now.isoformat(timespec="seconds"),
        git=git_commit(),
        config=dict(config),
        metrics=dict(metrics),
        plan=dict(plan or {}),
        files={name: describe_file(file) for name, file in (files or {}).items()},
        versions=versions(),
        machine=machine_facts(),
    )
    content = asdict(result)
    del content["path"]
    write_json(path, _plain({"schema": SCHEMA, **content}))
    return path


def _read_ours(path: Path, data: Mapping[str, Any]) -> Result:
    if data.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {data.get('schema')!r}; need {SCHEMA}; read it with the version it is from")
    require_shape(data, _SHAPE, path)
    return Result(path=path, **{name: data[name] for name in Result.__dataclass_fields__ if name in data})


def _newest_adapter(folder: Path) -> dict[str, dict[str, Any]]:
    # Pickled files are hashed but never opened: loading one could run code.
    weights = [path for path in folder.rglob("adapter_model.*") if path.name in (WEIGHTS_FILE, PICKLE_FILE)]
    return {"adapter": describe_file(max(weights, key=lambda path: path.stat().st_mtime))} if weights else {}


def _read_upstream(path: Path, data: Mapping[str, Any], kind: str) -> Result:
    require_shape(data, _UPSTREAM, path)
    metrics = {name: value for name, value in data.items() if name != "run_name"}
    return Result(
        path=path,
        kind=kind,
        run=data.get("run_name"),
        seconds=data.get("train_runtime"),
        metrics=metrics,
        files=_newest_adapter(path.parent),
    )


def _is_one_of(path: Path, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in patterns)


def read_result(path: str | Path) -> Result:
    """Read one result file, ours or an upstream one.

    Raises:
        UserError: it is missing, damaged, or of an unknown kind.
    """
    path = Path(path)
    data = read_json(path)
    if _is_one_of(path, OURS):
        return _read_ours(path, data)
    if _is_one_of(path, TRAINER):
        return _read_upstream(path, data, "lora")
    if _is_one_of(path, QLORA) and "run_name" in data:
        return _read_upstream(path, data, "qlora")
    raise UserError(f"{path} is not a known result; need {', '.join(OURS + TRAINER)} or QLoRA's metrics.json")


def _result_files(folder: Path) -> list[Path]:
    """Return the result files below a folder; upstream's are ignored where a result of ours is in the same folder."""
    visible = [path for path in sorted(folder.rglob("*.json")) if not _hidden(path.relative_to(folder))]
    ours = [path for path in visible if _is_one_of(path, OURS)]
    taken = {path.parent for path in ours}
    others = [path for path in visible if path.parent not in taken and _is_upstream(path)]
    return sorted(ours + others)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_upstream(path: Path) -> bool:
    return _is_one_of(path, TRAINER) or (_is_one_of(path, QLORA) and "run_name" in read_json(path))


def read_results(path: str | Path) -> list[Result]:
    """Read the results at a path: a file, or a folder with everything below it.

    Understands our `result.json`, the Trainer's files as LoRA's run_glue.py writes them (`all_results.json`,
    `eval_results_<task>.json`) and QLoRA's `metrics.json`.

    Raises:
        UserError: none found, or one is damaged.
    """
    path = Path(path)
    if path.is_file():
        return [read_result(path)]
    results = [read_result(file) for file in _result_files(path)] if path.is_dir() else []
    if not results:
        what = "a folder without" if path.is_dir() else "no such path, so no"
        raise UserError(f"{path}: {what} results; need {', '.join(OURS + TRAINER + QLORA)} somewhere below it")
    return results


def plan_facts(model: Any) -> dict[str, Any]:
    """Return what a result says about the model's plan; empty without one."""
    plans = getattr(getattr(model, "base_model", None), "plans", {})
    if not plans:
        return {}
    name, plan = next(iter(plans.items()))
    config = model.peft_config[name]
    rule = None if config.share_plan is not None else config.rule()
    return describe_plan(plan, rule)
