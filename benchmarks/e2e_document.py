"""The E2E comparison as a document: what was done, with which commands, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks import report
from benchmarks.e2e_experiment import DECODING, RECIPE, Experiment
from benchmarks.e2e_table import Found, score_table, search_table


def _flags(flags: Mapping[str, str]) -> str:
    return " ".join(f"--{name} {value}" for name, value in flags.items())


def about_model(experiment: Experiment) -> str:
    """Say which model was tuned."""
    from benchmarks.pretrain_gpt2 import describe

    if experiment.model is None:
        return "Model: the small GPT-2 that the project makes, on its own data: only to see that everything works."
    folder = Path(experiment.model)
    if not (folder / "result.json").is_file():
        return f"Model: `{folder.name}`."
    return f"Model: {describe(folder)}. `benchmarks/pretrain_gpt2.py --corpus ...` makes it, tokenizer included."


def about_runs(experiment: Experiment) -> str:
    """Say how every run was trained, decoded and scored."""
    return (
        f"Training (`NLG/gpt2_share_ft.py`): {experiment.updates:,} updates of 8 rows drawn from the whole train set "
        f"(42,061 rows), `{_flags(RECIPE)} --seq_len {experiment.length}`, 5 % of the updates to warm up. Adapters "
        "stand on the query and the value of `c_attn` and on the other linear layers."
        f"\n\nDecoding (`NLG/gpt2_beam.py`): `{_flags(DECODING)}`, each of the 630 distinct inputs of the test set "
        "once.\n\n"
        "Scores (`NLG/score.py --task e2e`): mean ± standard deviation over seeds; `ended` is the share of texts that "
        "ended within 64 tokens. A run is one process of one thread, and two run at a time: seconds are those of "
        "training alone and of the beam search alone."
    )


def compose(experiment: Experiment, searched: Found, found: Found) -> str:
    """Return the document without notes.

    Args:
        experiment: what was compared.
        searched: what the search came to.
        found: what the compared runs came to.
    """
    return "\n\n".join(
        (
            report.heading(report.facts("LoRA and its shared forms on E2E", {})),
            about_model(experiment),
            about_runs(experiment),
            "## Results",
            score_table(experiment, found),
            "![Scores with standard deviations](e2e.svg)",
            f"## Learning rates\n\nLoss per token on {experiment.held_out} rows of the validation split after "
            f"{experiment.search_updates} updates, the same rates for every way of sharing, with a seed of their own; "
            "the best (bold) was taken. The test set played no part.",
            search_table(experiment, searched),
        )
    )
