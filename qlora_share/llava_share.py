"""Tune LLaVA, or a model like it, on conversations about images with shared low-rank adapters.

    python qlora_share/llava_share.py --model_name_or_path DIR --data_path rows.json --image_folder DIR --share a

Adapters are put into the language model alone; the projector is trained as a whole and saved in the adapter's file.
`--help` shows every flag. `--tiny` runs the same on the project's own small model and made images.
"""

from __future__ import annotations


def main() -> None:
    """Parse, run, report."""
    from sharelora.flags.program import start
    from sharelora.training.vision.options import parse

    start(parse, "sharelora.training.vision.job")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
