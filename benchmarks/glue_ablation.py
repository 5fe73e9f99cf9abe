"""Do the As of LoRA's layers look alike only because they start alike? A controlled start, and A not trained at all.

    python benchmarks/glue_ablation.py --plan           how many runs, and how long they will take
    python benchmarks/glue_ablation.py --jobs 2         all of it, then docs/results/glue_ablation.md
    python benchmarks/glue_ablation.py --quick          a minute, on a small model that the project makes; no documents

Six ways to train: LoRA with a start of its own for the A of every layer, with the same start for all layers, with A
frozen at either start, ShareA, and ShareB. Scores, and how alike the As of different layers are before and after. Runs
that `glue_results.py` has done with the same budgets are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.glue_results import ROOT, add_flags, experiment_from, place_data, say_plan, search_and_train

DOCUMENT = ROOT / "docs" / "results" / "glue_ablation.md"
PAIRS = (
    ("lora_same", "lora"),
    ("lora_frozen", "lora"),
    ("lora_same_frozen", "lora"),
    ("share_a", "lora_same"),
    ("share_a", "lora_same_frozen"),
    ("share_b", "lora"),
)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, str(ROOT / "runs" / "glue_results"), DOCUMENT)
    parser.set_defaults(seeds=3)
    return parser.parse_args(argv)


def similarity_table(experiment: Any, found: Any, root: Path) -> str:
    """Return a row per method: how alike the As of different layers are, mean over tasks and seeds."""
    from benchmarks.glue_experiment import METHODS
    from benchmarks.report import table

    rows = [(METHODS[name].title, *_similar(experiment, found, root, name)) for name in experiment.methods]
    headers = ("", "cosine at the start", "cosine at the end", "cosine of the change", "angle (degrees)", "moved")
    return table(headers, rows)


def _similar(experiment: Any, found: Any, root: Path, method: str) -> list[str]:
    from benchmarks.glue_similarity import Similarity, similarity
    from benchmarks.glue_table import spread

    runs = [run for task in experiment.tasks for run in found.get((task, method), {})]
    measured = [similarity(root / run.name) for run in runs]
    digits = {"angle": 1}
    columns = {name: [getattr(one, name) for one in measured] for name in Similarity.__dataclass_fields__}
    # What was not trained has not changed.
    return [
        spread(values, digits.get(name, 3)) if all(value == value for value in values) else "-"
        for name, values in columns.items()
    ]


def compose(experiment: Any, found: Any, root: Path) -> str:
    """Return the document without notes."""
    from benchmarks.glue_document import method_lines, opening
    from benchmarks.glue_similarity import chance_angle
    from benchmarks.glue_table import difference_table, score_table
    from sharelora.convert.adapter_file import read_adapter

    some = next(run for runs in found.values() for run in runs)
    entry = read_adapter(root / some.name).plan.entries[0]
    chance = chance_angle(entry.r, entry.site.d_in)
    return "\n\n".join(
        (
            opening(experiment, "Does a common start make the As of LoRA alike?"),
            method_lines(experiment.methods),
            "The learning rates are those of the search of `glue_results.py`; all kinds of LoRA have LoRA's.",
            "## Scores\n\nOn the dev set after the last update, in hundredths: mean ± standard deviation over seeds.",
            score_table(experiment, found, experiment.methods),
            "Differences of the mean over tasks, formed within a seed, with the standard error:",
            difference_table(experiment, found, PAIRS),
            "## How alike the As are\n\nOver all pairs of layers, query and value apart; mean ± standard deviation "
            "over tasks and seeds. The cosine takes a matrix as one long vector; `change` is what training added to A; "
            f"the angle is the mean principal angle between row spaces (0: equal, random ones: {chance:.1f}); `moved` "
            "is the norm of the change over that of the start.",
            similarity_table(experiment, found, root),
        )
    )


def main() -> None:
    """Run what is missing and write the document."""
    given = arguments()
    from benchmarks.glue_document import write_document
    from benchmarks.glue_experiment import ABLATED

    experiment = experiment_from(given, ABLATED)
    place_data(given)
    say_plan(experiment, given.jobs)
    if given.plan:
        return
    root = Path(given.output)
    _, found = search_and_train(experiment, root, given.jobs, 0.0 if given.table else given.minutes)
    document = root / "glue_ablation.md" if given.quick else Path(given.document)
    write_document(document, compose(experiment, found, root))
    print(f"wrote {document}")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
