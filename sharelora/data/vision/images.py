"""Find and open the images of records; whatever is wrong with one names its row and its file."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sharelora.data.vision.records import Record
from sharelora.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

_SHOWN = 3


def require_pillow() -> None:
    """Refuse to go on without the package that reads images.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise UserError("images need the package pillow, which is not installed; run pip install 'sharelora[vision]'")


def require_images(records: Sequence[Record]) -> None:
    """See to it that every image exists and begins as an image does, before anything is loaded.

    Only the beginnings of the files are read, so one that was cut short is found when it is used.

    Raises:
        UserError: how many cannot be used, and the first of them with their rows.
    """
    require_pillow()
    known: dict[Path, str | None] = {}
    bad: list[str] = []
    for record in records:
        for path in record.images:
            if path not in known:
                known[path] = _fault(path)
            if known[path] is not None:
                bad.append(f"{record.name}: {path} {known[path]}")
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise UserError(
            f"found {len(bad)} images that cannot be used: {', '.join(bad[:_SHOWN])}{more}; need every image; put "
            "them there, pass --image_folder, or take the rows out"
        )


def _fault(path: Path) -> str | None:
    """What is wrong with a file by its beginning; None if nothing is."""
    from PIL import Image

    if not path.is_file():
        return "is missing"
    try:
        with Image.open(path):
            return None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return f"is no readable image ({type(error).__name__})"


def open_image(path: Path, name: str) -> Image.Image:
    """Read an image in full, as red, green and blue.

    Args:
        path: the file.
        name: of its row, for the message.

    Raises:
        UserError: it cannot be read; the message names the row and the file.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name}: the image {path} cannot be read: {reason}; need a whole image; copy it again, or take the row out"
        ) from error
