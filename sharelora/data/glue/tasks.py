"""The nine tasks of GLUE (Wang et al. 2018), as data: their files, columns, classes, metrics and submissions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sharelora.data.find import unknown_name

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueTask:
    """One task of one or two texts with a class or a score.

    Args:
        name: its name on the command line and its configuration on the hub.
        folder: its folder in the official download.
        columns: the text columns of our rows, one or two; the hub's own names.
        labels: the classes' names in the order of their ids; none for regression.
        metrics: names in `sharelora.metrics.glue`; the best epoch is chosen by the first one.
        tsv_columns: the text columns of the official files, where they are called otherwise.
        tsv_label: the label column of the official files.
        tsv_labels: how the official files and submissions write each class, where not by its name.
        tsv_index: the column of the official test file that numbers its rows for a submission.
        headerless: the columns of train and dev files that have no header.
        broken_lines: the official train file has lines that are cut in two; every reader leaves them out.
        splits: the splits, each the name of its official file.
        submission: test split -> file name in GLUE's submission format.
        bounds: the lowest and the highest score there is.
    """

    name: str
    folder: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    tsv_columns: tuple[str, ...] = ()
    tsv_label: str = "label"
    tsv_labels: tuple[str, ...] = ()
    tsv_index: str = "index"
    headerless: tuple[str, ...] = ()
    broken_lines: bool = False
    splits: tuple[str, ...] = ("train", "dev", "test")
    submission: Mapping[str, str] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None

    @property
    def regression(self) -> bool:
        """Whether a score is predicted rather than a class."""
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Outputs of the model's head: one for each class, one for a score."""
        return len(self.labels) or 1

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """The splits with labels that are not trained on: `dev`, or MNLI's two."""
        return tuple(split for split in self.splits if split.startswith("dev"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The splits without labels: `test`, or MNLI's two."""
        return tuple(split for split in self.splits if split.startswith("test"))

    @property
    def written_labels(self) -> tuple[str, ...]:
        """How official files and submissions write each class, in the order of ids."""
        return self.tsv_labels or self.labels


_PAIR = ("sentence1", "sentence2")
_NUMBERS = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI_SPLITS = ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched")

_EVERY = (
    GlueTask(
        "cola",
        "CoLA",
        ("sentence",),
        ("unacceptable", "acceptable"),
        ("matthews_correlation",),
        tsv_labels=_NUMBERS,
        headerless=("source", "label", "original_mark", "sentence"),
        submission={"test": "CoLA.tsv"},
    ),
    GlueTask(
        "mnli",
        "MNLI",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        tsv_columns=_PAIR,
        tsv_label="gold_label",
        splits=_MNLI_SPLITS,
        submission={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
    ),
    GlueTask(
        "mrpc",
        "MRPC",
        _PAIR,
        ("not_equivalent", "equivalent"),
        ("accuracy", "f1"),
        tsv_columns=("#1 String", "#2 String"),
        tsv_label="Quality",
        tsv_labels=_NUMBERS,
        submission={"test": "MRPC.tsv"},
    ),
    GlueTask("qnli", "QNLI", ("question", "sentence"), _ENTAILMENT, ("accuracy",), submission={"test": "QNLI.tsv"}),
    GlueTask(
        "qqp",
        "QQP",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
        tsv_label="is_duplicate",
        tsv_labels=_NUMBERS,
        tsv_index="id",
        broken_lines=True,
        submission={"test": "QQP.tsv"},
    ),
    GlueTask("rte", "RTE", _PAIR, _ENTAILMENT, ("accuracy",), submission={"test": "RTE.tsv"}),
    GlueTask(
        "sst2",
        "SST-2",
        ("sentence",),
        ("negative", "positive"),
        ("accuracy",),
        tsv_labels=_NUMBERS,
        submission={"test": "SST-2.tsv"},
    ),
    GlueTask(
        "stsb",
        "STS-B",
        _PAIR,
        (),
        ("pearson", "spearmanr"),
        tsv_label="score",
        submission={"test": "STS-B.tsv"},
        bounds=(0.0, 5.0),
    ),
    GlueTask(
        "wnli",
        "WNLI",
        _PAIR,
        ("not_entailment", "entailment"),
        ("accuracy",),
        tsv_labels=_NUMBERS,
        submission={"test": "WNLI.tsv"},
    ),
)
TASKS: Mapping[str, GlueTask] = MappingProxyType({task.name: task for task in _EVERY})


def glue_task(name: str) -> GlueTask:
    """Return a task by its name, in any case of letters.

    Raises:
        UserError: unknown name; the message suggests the closest one.
    """
    if name.lower() not in TASKS:
        raise unknown_name(name, TASKS, "task", "or pass --train_file and --validation_file")
    return TASKS[name.lower()]
