"""Image-instruction data for the tiny LLaVA, in the layouts of LLaVA's training data and of LLaVA-Bench."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from sharelora.data.vision import IMAGE
from sharelora.data.vision.images import require_pillow
from sharelora.support.files import write_text
from sharelora.tiny.drawings import QUESTIONS, Scene, draw, make_scene, place

Row = dict[str, Any]
TRAIN_PICTURES, BENCH_PICTURES = 256, 16
_SEEDS = {"train": 21, "bench": 22}
# LLaVA-Bench's kinds of question, each asked of every picture here.
CATEGORIES = dict(zip(("conv", "detail", "complex"), QUESTIONS, strict=True))


def _pictures(folder: Path, count: int, seed: int) -> dict[str, Scene]:
    """Draw pictures; return their names and what they show."""
    rng, found = random.Random(seed), {}
    folder.mkdir(parents=True)
    for number in range(count):
        name, scene = f"{number:03}.png", make_scene(rng)
        draw(scene, *place(rng)).save(folder / name)
        found[name] = scene
    return found


def train_rows(scenes: dict[str, Scene]) -> list[Row]:
    """Two questions about each picture, one after the other, in LLaVA's json."""
    rng, rows = random.Random(_SEEDS["train"]), []
    for number, (name, scene) in enumerate(scenes.items()):
        first, second = rng.sample(tuple(QUESTIONS), 2)
        said = [f"{IMAGE}\n{first}", getattr(scene, QUESTIONS[first]), second, getattr(scene, QUESTIONS[second])]
        turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(said)]
        rows.append({"id": f"{number:03}", "image": name, "conversations": turns})
    return rows


def bench_files(scenes: dict[str, Scene]) -> dict[str, list[Row]]:
    """LLaVA-Bench's three files: what is asked, what the pictures show, and the reference's answers."""
    asked = [(name, scene, *pair) for name, scene in scenes.items() for pair in CATEGORIES.items()]
    questions = [
        {"question_id": number, "image": name, "text": text, "category": category}
        for number, (name, _, category, text) in enumerate(asked)
    ]
    answers = [
        {"question_id": number, "text": getattr(scene, QUESTIONS[text]), "category": category}
        for number, (_, scene, category, text) in enumerate(asked)
    ]
    context = [{"id": number, "image": name, "caption": s.caption} for number, (name, s) in enumerate(scenes.items())]
    return {"questions": questions, "answers_gpt4": answers, "context": context}


def write_vision_tasks(folder: Path) -> None:
    """Write everything below a folder."""
    require_pillow()
    rows = train_rows(_pictures(folder / "llava", TRAIN_PICTURES, _SEEDS["train"]))
    write_text(folder / "llava" / "train.json", json.dumps(rows, indent=1) + "\n")
    bench = folder / "llava_bench"
    for name, lines in bench_files(_pictures(bench / "images", BENCH_PICTURES, _SEEDS["bench"])).items():
        write_text(bench / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
