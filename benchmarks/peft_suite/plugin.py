"""Loaded into pytest: puts ShareLoRA's configuration in the place of LoRA's, and notes what became of each test.

A test is about LoRA if one of its parameters is LoRA's configuration or it makes one while it runs. With LoRA all of
these are run; with a way to share only those that passed with LoRA.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
from peft import LoraConfig, PeftConfig

LORA = "lora"
# Modules from which tests import the configuration and the tuner.
HOMES = (peft, peft.tuners, peft.tuners.lora)
# Errors that a report names: a cause of a cause is as far as refusals are passed on.
CHAIN = 6

_MADE_BEFORE = pytest.StashKey[int]()
_made = [0]
_configs: list[type] = [LoraConfig]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("peft_suite")
    group.addoption("--share", default=LORA, help="lora, or a value of ShareLoraConfig.share")
    group.addoption("--across", default="layers", help="a value of ShareLoraConfig.share_across")
    group.addoption("--outcomes", help="file for a line per test")
    group.addoption("--only", help="file with the tests to run, one a line; all unless given")


def pytest_configure(config: pytest.Config) -> None:
    import torch

    torch.set_num_threads(1)
    share = config.getoption("--share")
    if share == LORA:
        _count(LoraConfig)
    else:
        _replace(share, config.getoption("--across"))
    _without_network()


def _count(config_class: Any) -> None:
    """Count the configurations of exactly this class that are made."""
    before = config_class.__post_init__

    @functools.wraps(before)
    def after(self: Any) -> None:
        _made[0] += type(self) is config_class
        before(self)

    config_class.__post_init__ = after


def _replace(share: str, across: str) -> None:
    """Let every test that asks PEFT for LoRA's configuration or tuner get ShareLoRA's."""
    from sharelora import ShareLoraConfig, ShareLoraModel

    before = ShareLoraConfig.__init__

    @functools.wraps(before)
    def after(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("share", share)
        if share != "none":
            kwargs.setdefault("share_across", across)
        before(self, *args, **kwargs)

    ShareLoraConfig.__init__ = after  # type: ignore[method-assign]
    # A test is named after the class among its parameters, and has to have one name in all runs.
    ShareLoraConfig.__name__ = LoraConfig.__name__
    _configs.append(ShareLoraConfig)
    _count(ShareLoraConfig)
    for home in HOMES:
        for name, new in (("LoraConfig", ShareLoraConfig), ("LoraModel", ShareLoraModel)):
            if hasattr(home, name):
                setattr(home, name, new)


def _without_network() -> None:
    """Replace what the tests fetch by something small."""
    import tests.testing_utils as helpers  # PEFT's

    @contextlib.contextmanager
    def offline(model_id: str) -> Iterator[None]:
        yield

    def quotes() -> Any:
        from datasets import Dataset, DatasetDict

        texts = ["the quick brown fox jumps over the lazy dog", "hello world, this is a test"] * 20
        return DatasetDict(train=Dataset.from_dict({"quote": texts}))

    def picture() -> Any:
        from PIL import Image

        return Image.new("RGB", (64, 64), (200, 100, 50))

    helpers.hub_online_once = offline
    helpers.load_dataset_english_quotes = quotes
    helpers.load_cat_image = picture


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that are named, and of those with a configuration among their parameters the ones with LoRA's."""
    file = config.getoption("--only")
    named = set(Path(file).read_text(encoding="utf-8").splitlines()) if file else None
    kept = [item for item in items if (named is None or item.nodeid in named) and _may_be_about_lora(item)]
    dropped = set(items) - set(kept)
    items[:] = kept
    if dropped:
        config.hook.pytest_deselected(items=list(dropped))


def _may_be_about_lora(item: pytest.Item) -> bool:
    classes = set(_config_classes(getattr(getattr(item, "callspec", None), "params", {}).values()))
    return not classes or bool(classes & set(_configs))


def _config_classes(value: Any) -> Iterator[type]:
    """Yield the classes of configurations within the parameters of a test."""
    if isinstance(value, type) and issubclass(value, PeftConfig):
        yield value
    elif isinstance(value, PeftConfig):
        yield type(value)
    elif isinstance(value, list | tuple) or type(value) is type({}.values()):
        for part in value:
            yield from _config_classes(part)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note how many configurations the tests before this one have made."""
    item.stash[_MADE_BEFORE] = _made[0]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add to a test's report whether it is about LoRA, and the errors that ended it, the last one first."""
    result: Any = yield
    params = getattr(getattr(item, "callspec", None), "params", {}).values()
    named = any(issubclass(c, LoraConfig) and c in _configs for c in _config_classes(params))
    about = named or _made[0] > item.stash.get(_MADE_BEFORE, 0)
    errors = list(_errors(call.excinfo.value)) if call.excinfo else []
    result.get_result().user_properties.append(("peft_suite", {"about_lora": about, "errors": errors}))


def _errors(error: BaseException | None) -> Iterator[tuple[str, str]]:
    """Yield class and message of an error and of those that it was raised from or while they were handled."""
    for _ in range(CHAIN):
        if error is None:
            return
        yield type(error).__name__, str(error)
        error = error.__cause__ or error.__context__


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write a line for each phase of a test; several processes report to one, which is the one that writes."""
    if _writer is not None:
        noted: Any = next((v for k, v in reversed(report.user_properties) if k == "peft_suite"), {})
        outcome = "expected" if hasattr(report, "wasxfail") else report.outcome
        row = {"test": report.nodeid, "when": report.when, "outcome": outcome, "seconds": round(report.duration, 3)}
        if outcome == "failed" and not noted.get("errors"):
            # The process died, or it ran out of time.
            noted = {**noted, "errors": [("Crash", str(report.longrepr)[-300:])]}
        _writer.write(json.dumps({**row, **noted}) + "\n")
        _writer.flush()


_writer: Any = None


def pytest_sessionstart(session: pytest.Session) -> None:
    global _writer
    file = session.config.getoption("--outcomes")
    if file and not hasattr(session.config, "workerinput"):
        _writer = Path(file).open("a", encoding="utf-8")


def pytest_sessionfinish() -> None:
    if _writer is not None:
        _writer.close()
