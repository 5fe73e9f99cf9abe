"""How similar the layers of a language model are while it reads images with texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_vision import row, write_rows

from sharelora.cli.commands import main
from sharelora.data.vision import ConversationWriter, encode
from sharelora.layer_groups import read_similarity
from sharelora.layer_groups.images import measure_with_images, read_image_sample
from sharelora.models.vision import load_vision_base
from sharelora.support.errors import UserError


def test_the_last_tokens_of_the_language_model_are_compared(
    llava: Path, made: Path, writer: ConversationWriter
) -> None:
    sample = read_image_sample(made / "llava" / "train.json", None, 5)
    model: Any = load_vision_base(str(llava))
    found = [measure_with_images(model, writer, sample, str(llava), 512, size) for size in (1, 3)]
    one, several = (torch.tensor(result.matrix()) for result in found)
    assert torch.allclose(one, several, atol=1e-5) and found[0].texts == 5
    # The plain way, one conversation at a time.
    rows, _ = encode(writer, sample.records, 512, "similarity")
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for place in range(5):
        item = rows[place]
        with torch.no_grad():
            states = model(
                input_ids=item["input_ids"][None], pixel_values=item["pixel_values"], output_hidden_states=True
            ).hidden_states
        # The last of these is behind the final norm; what it is compared with is before it.
        last = torch.stack([state[0, -1] for state in states[1:-1]]).double()
        unit = last / last.norm(dim=1, keepdim=True)
        expected[:3, :3] += unit @ unit.T / 5
    assert torch.allclose(one[:3, :3].double(), expected[:3, :3], atol=1e-5)


def test_a_sample_is_drawn_among_rows_with_images_and_is_told_from_others(tmp_path: Path) -> None:
    rows = [row("<image>\nWhat?", word) for word in ("red", "blue", "green")] + [row("Hi", "hello", image=None)]
    path = write_rows(tmp_path, *rows)
    first, again, other = (read_image_sample(path, None, 2, seed) for seed in (0, 0, 3))
    assert first == again and first.digest == again.digest != other.digest
    assert len(read_image_sample(path, None, 9)) == 3
    with pytest.raises(UserError, match="found no row with an image"):
        read_image_sample(write_rows(tmp_path, rows[3]), None, 2)


def test_the_command_measures_images(llava: Path, made: Path, tmp_path: Path) -> None:
    images = made / "llava"
    flags = {"model": llava, "sample": images / "train.json", "image_folder": images, "limit": 4, "output": tmp_path}
    main(["similarity", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))])
    found = read_similarity(tmp_path / "similarity.json")
    assert (found.texts, found.layers, found.sample) == (4, 4, "train.json")
