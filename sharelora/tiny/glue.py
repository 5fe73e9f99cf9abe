"""The nine tasks of GLUE about the small happenings, in the layout of the official files.

Each asks in small what the real one asks: whether a sentence is well formed, praises, says the same as another, follows
from it, answers it, or how far two agree. Labels are dealt out evenly, and no text of train is in dev or test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sharelora.data.glue.tasks import TASKS, GlueTask
from sharelora.support.files import write_text
from sharelora.tiny.scenes import (
    ANSWERS,
    BAD,
    GOOD,
    HAPPENINGS,
    LETTER,
    OPEN,
    QUESTIONS,
    REFERENCES,
    another_day,
    new_slots,
    opinion,
    reference,
    sentence,
)
from sharelora.tiny.world import World

Texts = tuple[str, ...]
# World, random source, class id or score, split -> the texts of a row.
Writer = Callable[[World, random.Random, int, str], Texts]

# STS-B's scores are 0 to 5.
SCORES = 6
# Of each label there are far more texts than rows; a new one is found at once.
TRIES = 1000
SIZES = {"train": 1200, "dev": 200, "test": 100}


def _other(name: str, names: Mapping[str, object], rng: random.Random) -> str:
    return rng.choice([other for other in names if other != name])


def _cola(world: World, rng: random.Random, label: int, split: str) -> Texts:
    """Acceptable, or with two neighbouring words in the wrong order."""
    words = sentence(rng.choice(tuple(HAPPENINGS)), new_slots(world, rng), rng).split()
    if not label:
        position = rng.randrange(len(words) - 1)
        words[position], words[position + 1] = words[position + 1], words[position]
    return (" ".join(words),)


def _sst2(world: World, rng: random.Random, label: int, split: str) -> Texts:
    return (opinion(world, rng, GOOD if label else BAD),)


def _mrpc(world: World, rng: random.Random, label: int, split: str) -> Texts:
    """The same happening in two ways, or two happenings to one person on one day."""
    slots, name = new_slots(world, rng), rng.choice(tuple(HAPPENINGS))
    if not label:
        return sentence(name, slots, rng), sentence(_other(name, HAPPENINGS, rng), slots, rng)
    first, second = rng.sample(HAPPENINGS[name].ways, 2)
    return first.format(**slots), second.format(**slots)


def _qqp(world: World, rng: random.Random, label: int, split: str) -> Texts:
    """The same question in two ways, or two questions about one thing."""
    slots, name = new_slots(world, rng), rng.choice(tuple(QUESTIONS))
    first, second = rng.sample(QUESTIONS[name], 2)
    if not label:
        second = rng.choice(QUESTIONS[_other(name, QUESTIONS, rng)])
    return first.format(**slots), second.format(**slots)


def _stsb(world: World, rng: random.Random, score: int, split: str) -> Texts:
    """The same happening counts 4, one of its kind 2; the same day counts 1."""
    slots, name = new_slots(world, rng), rng.choice(tuple(HAPPENINGS))
    alike = [other for other in HAPPENINGS if HAPPENINGS[other].kind == HAPPENINGS[name].kind and other != name]
    others = [other for other in HAPPENINGS if HAPPENINGS[other].kind != HAPPENINGS[name].kind]
    second = (rng.choice(others), rng.choice(alike), name)[score // 2]
    return sentence(name, slots, rng), sentence(second, slots if score % 2 else another_day(slots, rng), rng)


def _mnli(world: World, rng: random.Random, label: int, split: str) -> Texts:
    """What follows from a happening, what it leaves open, or what follows from another one."""
    slots, name = new_slots(world, rng), rng.choice(tuple(HAPPENINGS))
    first = sentence(name, slots, rng)
    if split.endswith("mismatched"):
        first = LETTER.format(text=first, **slots)
    hypotheses = (HAPPENINGS[name].follows, OPEN, HAPPENINGS[_other(name, HAPPENINGS, rng)].follows)
    return first, rng.choice(hypotheses[label]).format(**slots)


def _rte(world: World, rng: random.Random, label: int, split: str) -> Texts:
    """A letter, and what follows from it or does not."""
    slots, name = new_slots(world, rng), rng.choice(tuple(HAPPENINGS))
    follows = HAPPENINGS[_other(name, HAPPENINGS, rng) if label else name].follows
    return LETTER.format(text=sentence(name, slots, rng), **slots), rng.choice(follows).format(**slots)


def _qnli(world: World, rng: random.Random, label: int, split: str) -> Texts:
    """A question and its answer, or the answer to another one."""
    slots, name = new_slots(world, rng), rng.choice(tuple(QUESTIONS))
    answer = ANSWERS[_other(name, QUESTIONS, rng) if label else name]
    return rng.choice(QUESTIONS[name]).format(**slots), answer.format(**slots)


def _wnli(world: World, rng: random.Random, label: int, split: str) -> Texts:
    """A sentence with `it`, and who is meant or somebody else."""
    number = rng.randrange(len(REFERENCES))
    other = (number + rng.randrange(1, len(REFERENCES))) % len(REFERENCES)
    return reference(number, world, rng), REFERENCES[number if label else other][1]


WRITERS: Mapping[str, Writer] = {
    "cola": _cola,
    "mnli": _mnli,
    "mrpc": _mrpc,
    "qnli": _qnli,
    "qqp": _qqp,
    "rte": _rte,
    "sst2": _sst2,
    "stsb": _stsb,
    "wnli": _wnli,
}
_MNLI = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
# The official columns of train and dev; those of test, where there are others than these without the label.
HEADERS: Mapping[str, str] = {
    "cola": "source\tlabel\toriginal_mark\tsentence",
    "mnli": _MNLI.replace(" ", "\t") + "\tsentence1\tsentence2\tlabel1\tgold_label",
    "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "qnli": "index\tquestion\tsentence\tlabel",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "rte": "index\tsentence1\tsentence2\tlabel",
    "sst2": "sentence\tlabel",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "wnli": "index\tsentence1\tsentence2\tlabel",
}
TEST_HEADERS: Mapping[str, str] = {
    "cola": "index\tsentence",
    "mrpc": "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "qqp": "id\tquestion1\tquestion2",
    "sst2": "index\tsentence",
}
NOTHING = "-"


def rows(task: GlueTask, split: str, world: World, used: set[Texts]) -> Iterator[tuple[int, Texts]]:
    """The rows of a split: class id, or score, and texts.

    Args:
        task: the task.
        split: one of its splits.
        world: what texts are about.
        used: the texts of other splits; those of this one are added.
    """
    rng = random.Random(f"{task.name} {split}")
    choices = task.num_labels if not task.regression else SCORES
    count = SIZES[split.partition("_")[0]]
    labels = [number % choices for number in range(count)]
    rng.shuffle(labels)
    write = WRITERS[task.name]
    for label in labels:
        candidates = (write(world, rng, label, split) for _ in range(TRIES))
        texts = next(texts for texts in candidates if texts not in used)
        used.add(texts)
        yield label, texts


def _header(task: GlueTask, test: bool) -> Sequence[str]:
    columns = (TEST_HEADERS.get(task.name, HEADERS[task.name]) if test else HEADERS[task.name]).split("\t")
    return [column for column in columns if not (test and column == task.tsv_label)]


def _line(task: GlueTask, header: Sequence[str], number: int, label: int, texts: Texts) -> str:
    written = f"{label:.3f}" if task.regression else task.written_labels[label]
    cells = dict(zip(task.tsv_columns or task.columns, texts, strict=True))
    cells |= {task.tsv_label: written, "label1": written, task.tsv_index: str(number)}
    return "\t".join(cells.get(column, NOTHING) for column in header)


def write_glue(folder: Path, world: World) -> None:
    """Write every task below a folder."""
    for task in TASKS.values():
        used: set[Texts] = set()
        for split in task.splits:
            test = split in task.test_splits
            header = _header(task, test)
            numbered = enumerate(rows(task, split, world, used))
            lines = [_line(task, header, number, label, texts) for number, (label, texts) in numbered]
            if not task.headerless or test:
                lines.insert(0, "\t".join(header))
            write_text(folder / task.folder / f"{split}.tsv", "\n".join(lines) + "\n")
