"""A GPT-2 whose groups of layers are measured by the run: query and value of the fused module."""

from __future__ import annotations

import json
from pathlib import Path

from small_gpt2 import Job


def test_a_gpt2_is_measured(job: Job, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("the name is a\nthe name is a b and c\nfood is good there\n")
    flags = f"--share ab --share_layers auto --similarity_threshold -1 --similarity_sample {tmp_path / 'texts.txt'}"
    args, _ = job(*flags.split())
    plan = json.loads((args.output_dir / "result.json").read_text())["plan"]
    assert (args.output_dir / "similarity.json").is_file()
    assert plan["trainable"] == plan["unshared"] / 2 and plan["matrices"] == 4
