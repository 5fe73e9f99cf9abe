"""Processors that are missing, damaged, or need a package that is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sharelora.data.vision import images
from sharelora.models.vision import AutoProcessor, load_processor
from sharelora.support.errors import UserError


@pytest.mark.parametrize(
    ("said", "extra"),
    [
        ("\nQwen2VLVideoProcessor requires the Torchvision library but it was not found", "torchvision"),
        ("\nLlavaImageProcessorPil requires the PIL library but it was not found", "vision"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(said: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise ImportError(said)

    monkeypatch.setattr(AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(UserError, match=rf"the processor of x needs the package .*'sharelora\[{extra}\]'") as error:
        load_processor("x")
    assert "\n" not in str(error.value)


def test_a_folder_without_a_processor_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be loaded: .*need processor_config\.json or preprocessor_config.json"):
        load_processor(str(tmp_path))


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"images need the package pillow.*pip install 'sharelora\[vision\]'"):
        images.require_images([])
