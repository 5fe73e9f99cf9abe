"""Small rows of image-instruction data, and what a test runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from sharelora.training.vision.job import VisionArguments

Job = Callable[..., VisionArguments]


def row(*said: str, image: Any = "a.png", name: str = "7") -> dict[str, Any]:
    """A row in which human and gpt take turns; without an image if that is None."""
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(said)]
    return {"id": name, "conversations": turns, **({} if image is None else {"image": image})}


def write_rows(folder: Path, *rows: dict[str, Any]) -> Path:
    """Write rows as LLaVA's json, and the images a.png and b.png beside them."""
    for name, colour, size in (("a.png", "red", (40, 30)), ("b.png", "blue", (20, 50))):
        Image.new("RGB", size, colour).save(folder / name)
    path = folder / "rows.json"
    path.write_text(json.dumps(list(rows)))
    return path
