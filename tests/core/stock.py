"""Read adapters in a process of its own that knows PEFT and not this library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_READER = """
import sys, torch, transformers, warnings
from peft import PeftModel
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
for folder in sys.argv[1:]:
    case = torch.load(f"{folder}/case.pt")
    base = getattr(transformers, case["class"]).from_pretrained(f"{folder}/base")
    warnings.simplefilter("error", UserWarning)  # with one, PEFT says that keys are missing
    warnings.filterwarnings("ignore", message=".*(tie_word_embeddings|fan_in_fan_out)")
    model = PeftModel.from_pretrained(base, f"{folder}/{case['adapter']}").eval()
    with torch.no_grad():
        torch.save(model(**case["batch"]).logits, f"{folder}/found.pt")
assert "sharelora" not in sys.modules
"""


def prepare(folder: Path, model: nn.Module, batch: Mapping[str, Tensor], adapter: str = "plain") -> Path:
    """Note what is to be read: the adapter in a folder, on the base model beside it.

    Args:
        folder: holds `base` and the adapter.
        model: of the base's class.
        batch: what the model reads.
        adapter: name of its folder.
    """
    case: dict[str, Any] = {"class": type(model).__name__, "batch": dict(batch), "adapter": adapter}
    torch.save(case, folder / "case.pt")
    return folder


def read(*folders: Path) -> list[Tensor]:
    """Return the logits of adapters on their bases, all read in one process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", _READER, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folders[0])
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / "found.pt") for folder in folders]
