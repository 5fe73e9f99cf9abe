"""LoRA and its shared forms on the full E2E data with a small pre-trained GPT-2: search, training, decoding, table.

    python benchmarks/scores/e2e_results.py --corpus ../shared/corpus/novels.tar.xz --jobs 2      to docs/results/e2e.md
    python benchmarks/scores/e2e_results.py --model DIR --jobs 2      the same with another pre-trained GPT-2
    python benchmarks/scores/e2e_results.py --quick                   a minute, on what the project makes

First every way of sharing is trained with every learning rate for a short time; the best rate is that with the lowest
loss on validation rows. Then each is trained with several seeds for the same number of updates, decodes the 630
distinct inputs of the test set with beam 10 and is scored with the challenge's five metrics. Stages that have ended are
not repeated: an interrupted comparison resumes where it stopped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import (
    add_comparison_flags,
    chosen_names,
    counts_from,
    document_path,
    new_parser,
    output_folder,
    set_data_folder,
)
from benchmarks.harness.experiment import Outcomes
from benchmarks.harness.report import mean_and_deviation, plot_scores, table
from benchmarks.scores.e2e import BASE, DECODING, RECIPE, TITLES, E2EExperiment, Outcome, quick
from sharelora.reporting.document import opening, provenance, write_document
from sharelora.support.errors import UserError, run_main
from sharelora.support.text import size


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add_comparison_flags(parser, "e2e_results", "e2e.md")
    add = parser.add_argument
    add("--model", help="folder of a pre-trained GPT-2")
    add("--corpus", help="instead of --model: text to pre-train one on, as benchmarks/scores/pretrain_gpt2.py does")
    add("--shares", help="ways of sharing, comma-separated; none,a,b,ab unless given")
    add("--updates", type=int, help="of a compared run")
    return parser.parse_args(argv)


def experiment_from(args: argparse.Namespace) -> E2EExperiment:
    """Return the experiment that the command line describes; a model that does not exist yet is pre-trained.

    Raises:
        UserError: an unknown way of sharing, fewer than one seed, or no model.
    """
    from sharelora.metrics import java

    fields = {**counts_from(args), "shares": chosen_names(args.shares, TITLES, "sharing")}
    if args.quick:
        return quick(E2EExperiment(None, **fields))
    # Hours of training would be lost without METEOR.
    java.jar(java.METEOR)
    if not args.model and not args.corpus:
        raise UserError("found neither --model nor --corpus; need a pre-trained GPT-2, or text to pre-train one on")
    if args.model:
        model = Path(args.model).resolve()
    else:
        from benchmarks.scores.pretrain_gpt2 import ensure_gpt2

        model = ensure_gpt2(args.corpus)
    return E2EExperiment(str(model), **fields)


DIGITS: Mapping[str, int] = {"NIST": 3, "CIDEr": 3}


def score_table(experiment: E2EExperiment, outcomes: Outcomes[Outcome]) -> str:
    """Return a row for the base and for each way of sharing: sizes, loss, metrics, seconds."""
    headers = ("", "trained", "file", "validation loss", *experiment.metrics)
    headers += ("ended", "training s", "decoding s", "seeds")
    shares = (BASE, *experiment.shares)
    return table(headers, [_row(experiment, share, list(outcomes.get(share, {}).values())) for share in shares])


def _row(experiment: E2EExperiment, share: str, ended: Sequence[Outcome]) -> tuple[str, ...]:
    title = TITLES.get(share, "base, not tuned")
    if not ended:
        return (title, *["-"] * (7 + len(experiment.metrics)))
    scores = [mean_and_deviation((end.scores[m] for end in ended), DIGITS.get(m, 4)) for m in experiment.metrics]
    tuned = share != BASE
    return (
        title,
        f"{ended[0].trainable:,}" if tuned else "",
        size(max(end.bytes for end in ended)) if tuned else "",
        mean_and_deviation([end.loss for end in ended if end.loss is not None], 4) if tuned else "",
        *scores,
        f"{100 * statistics.fmean(end.ended for end in ended):.0f} %",
        f"{statistics.fmean(end.training for end in ended):.0f}" if tuned else "",
        f"{statistics.fmean(end.decoding for end in ended):.0f}",
        f"{len(ended)}" if tuned else "",
    )


def search_table(experiment: E2EExperiment, searched: Outcomes[Outcome]) -> str:
    """Return the validation loss of every learning rate that was tried, the chosen one in bold."""
    return experiment.search_table(
        searched, ("",), lambda share: (TITLES[str(share)],), lambda outcome: f"{outcome.loss:.4f}"
    )


def compose(experiment: E2EExperiment, searched: Outcomes[Outcome], compared: Outcomes[Outcome]) -> str:
    """Return the document without notes.

    Args:
        experiment: what was compared.
        searched: what the search came to.
        compared: what the compared runs came to.
    """
    recipe, decoding = (" ".join(f"--{name} {value}" for name, value in flags.items()) for flags in (RECIPE, DECODING))
    return "\n\n".join(
        (
            opening(provenance("LoRA and its shared forms on E2E")),
            _model_sentence(experiment),
            f"Training (`NLG/gpt2_share_ft.py`): {experiment.updates:,} updates of 8 rows drawn from the whole train "
            f"set (42,061 rows), `{recipe} --seq_len {experiment.length}`, 5 % of the updates to warm up. The query "
            "and the value of `c_attn` and the other linear layers have adapters.",
            f"Decoding (`NLG/gpt2_beam.py`): `{decoding}`, each of the 630 distinct inputs of the test set once.",
            "Scores (`NLG/score.py --task e2e`): mean ± standard deviation over seeds; `ended` is the share of texts "
            "that ended within 64 tokens. A run is one process of one thread, and two run at a time: seconds are those "
            "of training only and of the beam search only.",
            "## Results",
            score_table(experiment, compared),
            "![Scores with standard deviations](e2e.svg)",
            f"## Learning rates\n\nLoss per token on {experiment.held_out} rows of the validation split after "
            f"{experiment.search_updates} updates, the same rates for every way of sharing, with their own seed; "
            "the best (bold) was taken. The test set played no part.",
            search_table(experiment, searched),
        )
    )


def _model_sentence(experiment: E2EExperiment) -> str:
    if experiment.model is None:
        return "Model: the small GPT-2 that the project makes, on its own data: only to see that everything works."
    folder = Path(experiment.model)
    if not (folder / "result.json").is_file():
        return f"Model: `{folder.name}`."
    # It loads torch, which the other tables do without.
    from benchmarks.scores.pretrain_gpt2 import describe

    command = "benchmarks/scores/pretrain_gpt2.py --corpus ..."
    return f"Model: {describe(folder)}. `{command}` makes it, tokenizer included."


def plot(experiment: E2EExperiment, outcomes: Outcomes[Outcome], stem: Path) -> list[Path]:
    """Draw a panel per metric.

    Args:
        experiment: what was compared.
        outcomes: what the runs came to.
        stem: the path of the files without the ending.

    Returns:
        The files: SVG and PNG.
    """
    ended = {share: list(outcomes.get(share, {}).values()) for share in experiment.shares}
    panels = {name: [[end.scores[name] for end in runs] for runs in ended.values()] for name in experiment.metrics}
    labels = [f"{TITLES[share]} ({runs[0].trainable:,})" if runs else TITLES[share] for share, runs in ended.items()]
    return plot_scores(labels, panels, "score on the test set: every seed, mean and standard deviation", stem)


def main() -> None:
    """Run what is missing and write the document with its plot."""
    args = arguments()
    set_data_folder(args)
    experiment = experiment_from(args)
    searched, compared = experiment.search_and_train(output_folder(args), args.jobs)
    document = document_path(args)
    plot(experiment, compared, document.with_suffix(""))
    write_document(document, compose(experiment, searched, compared))
    print(score_table(experiment, compared))
    print(f"wrote {document}")


if __name__ == "__main__":
    run_main(main)
