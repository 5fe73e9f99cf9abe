"""A full disk ends every command on adapters as files with one line, and leaves nothing."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from saved_adapters import contents, saved
from test_new_folders import disk as disk
from toy_models import llama, shake

from sharelora import SharingRule, UserError
from sharelora.convert import compress, export_lora, export_loralib, import_lora, merge

RULE = SharingRule("a")
COMMANDS: dict[str, Callable[[Path, Path], Any]] = {
    "export": lambda inputs, out: export_lora(inputs / "adapter", out, inputs / "base"),
    "export --loralib": lambda inputs, out: export_loralib(
        inputs / "adapter", out.with_suffix(".safetensors"), inputs / "base"
    ),
    "merge": lambda inputs, out: merge(inputs / "base", inputs / "adapter", out),
    "import": lambda inputs, out: import_lora(inputs / "lora", out, SharingRule(), inputs / "base"),
    "compress": lambda inputs, out: compress(inputs / "lora", out, RULE, base=inputs / "base"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a shared adapter and a plain one; each has more than 4 kB of weights."""
    folder = tmp_path_factory.mktemp("inputs")
    saved(folder, "a")
    lora = get_peft_model(llama(), LoraConfig(r=8, target_modules=["q_proj", "v_proj", "up_proj"]))
    shake(lora).save_pretrained(str(folder / "lora"))
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_the_system_refuses_to_write_more(inputs: Path, tmp_path: Path, name: str) -> None:
    """As at a quota: a file cannot grow beyond a kilobyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*out.*: .*File too large.*; free space or choose another"):
            COMMANDS[name](inputs, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_is_full(inputs: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With room for a lock and a small file."""
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real("/"))  # it fills up after the check at the start
    (disk / "other").write_bytes(bytes(252 * 1024))
    before = contents(disk)
    with pytest.raises(UserError, match=r"cannot write .*out.*: .*No space left on device.*; free space or choose"):
        COMMANDS[name](inputs, disk / "out")
    assert contents(disk) == before and [path.name for path in disk.iterdir()] == ["other"]
