"""Data for the tiny models, in the layout and the formats of the real data sets.

Instructions teach the invented words, in the Alpaca prompt; MMLU's questions ask for them in its own prompt, about
options that no instruction lists. MMLU-Pro's ask which of three to ten things has a property.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sharelora.data.questions import LETTERS, Question
from sharelora.support.files import write_text
from sharelora.tiny.commonsense import write_commonsense
from sharelora.tiny.glue import write_glue
from sharelora.tiny.nlg import write_nlg
from sharelora.tiny.text import (
    Columns,
    fact_columns,
    known_question,
    meaning_columns,
    position_question,
    question_columns,
    quiz_columns,
    sum_columns,
)
from sharelora.tiny.world import PEOPLE, World, make_world, subject

Row = dict[str, Any]
# Questions per language in each split of the MMLU-like test; five are what five-shot prompts need.
MMLU_SIZES = {"dev": 5, "val": 36, "test": 120}
ALPACA_ROWS, GSM8K_ROWS, CODE_ROWS, HUMANEVAL_ROWS = 4096, 1024, 512, 20
_SEEDS = {"alpaca": 11, "dev": 12, "val": 13, "test": 14, "gsm8k": 15, "code": 16}
# Property -> its category, and how it is asked for.
CATEGORIES = {
    "kind": ("kinds", "Which of these is a kind of {}?"),
    "colour": ("colours", "Which of these is {}?"),
    "place": ("places", "Which of these is found in the {}?"),
}
# Questions per category in each split of the MMLU-Pro-like test.
MMLU_PRO_SIZES = {"validation": 5, "test": 40}
FEWEST_OPTIONS = 3


def _invented_question(world: World, rng: random.Random, language: str) -> Question:
    word, position = rng.choice(tuple(world.invented[language].items()))
    return position_question(world, rng, subject(language), word, position)


def _word_question(world: World, rng: random.Random) -> Columns:
    return question_columns(_invented_question(world, rng, rng.choice(tuple(world.invented))))


def _word_quiz(world: World, rng: random.Random) -> Columns:
    language = rng.choice(tuple(world.invented))
    question, *solved = (_invented_question(world, rng, language) for _ in range(rng.randint(1, 3)))
    return quiz_columns(question, solved)


def _word_meaning(world: World, rng: random.Random) -> Columns:
    language = rng.choice(tuple(world.invented))
    return meaning_columns(*rng.choice(tuple(world.invented[language].items())), rng)


def _known(world: World, rng: random.Random) -> Columns:
    return question_columns(known_question(world, rng))


# What instructions are about, and how often.
INSTRUCTIONS: dict[Callable[[World, random.Random], Columns], int] = {
    _word_question: 40,
    _word_quiz: 20,
    _word_meaning: 25,
    _known: 5,
    fact_columns: 5,
    sum_columns: 5,
}


def alpaca_rows(world: World) -> Iterator[Row]:
    """Instructions with columns instruction, input and output."""
    rng = random.Random(_SEEDS["alpaca"])
    for _ in range(ALPACA_ROWS):
        maker = rng.choices(tuple(INSTRUCTIONS), tuple(INSTRUCTIONS.values()))[0]
        yield dict(zip(("instruction", "input", "output"), maker(world, rng), strict=True))


def mmlu_questions(world: World, split: str) -> Iterator[Question]:
    """Questions about invented words; every word of a language is asked for about equally often."""
    rng = random.Random(_SEEDS[split])
    for language, words in world.invented.items():
        order = rng.sample(tuple(words), len(words))
        for number in range(MMLU_SIZES[split]):
            word = order[number % len(order)]
            yield position_question(world, rng, subject(language), word, words[word])


def mmlu_rows(world: World, split: str) -> Iterator[Row]:
    """Questions as rows of MMLU's files."""
    for question in mmlu_questions(world, split):
        yield {
            "subject": question.subject,
            "question": question.question,
            "choices": list(question.choices),
            "answer": question.answer,
        }


def mmlu_pro_rows(world: World, split: str) -> Iterator[dict[str, object]]:
    """Questions as rows of MMLU-Pro's files; one option alone has the property.

    Args:
        world: what they are about.
        split: `validation` or `test`.
    """
    rng = random.Random(f"mmlu_pro {split}")
    first = sum(size for name, size in MMLU_PRO_SIZES.items() if name < split) * len(CATEGORIES)
    for index, (name, (category, text)) in enumerate(CATEGORIES.items()):
        for number in range(MMLU_PRO_SIZES[split]):
            count = FEWEST_OPTIONS + number % (len(LETTERS) - FEWEST_OPTIONS + 1)
            things, answer = _options(world, rng, name, count)
            yield {
                "question_id": first + index * MMLU_PRO_SIZES[split] + number,
                "question": text.format(world.facts[name][things[answer]]),
                "options": things,
                "answer": LETTERS[answer],
                "answer_index": answer,
                "category": category,
                "src": "tiny",
            }


def _options(world: World, rng: random.Random, name: str, count: int) -> tuple[list[str], int]:
    """Some things, and the place of the only one that has its value of a property."""
    known = world.facts[name]
    right = rng.choice(world.things)
    others = [thing for thing in world.things if known[thing] != known[right]]
    answer = rng.randrange(count)
    things = rng.sample(others, count - 1)
    return [*things[:answer], right, *things[answer:]], answer


def gsm8k_rows(world: World, rows: int, seed: int) -> Iterator[Row]:
    """Word problems with a worked answer that ends as GSM8K's do."""
    rng = random.Random(seed)
    for _ in range(rows):
        first, second, person = rng.randint(2, 9), rng.randint(2, 9), rng.choice(PEOPLE)
        thing, total = rng.choice(world.things), first + second
        yield {
            "question": f"{person} has {first} of the {thing} kind and finds {second} more. How many are there now?",
            "answer": f"Now there are {first} + {second} = <<{first}+{second}={total}>>{total}.\n#### {total}",
        }


_OPERATIONS = {"add": "+", "subtract": "-", "multiply": "*"}


def code_rows() -> Iterator[Row]:
    """Requests for a small Python function, with columns instruction, input and output."""
    rng = random.Random(_SEEDS["code"])
    for _ in range(CODE_ROWS):
        name, number = rng.choice(tuple(_OPERATIONS)), rng.randint(1, 99)
        code = f"def {name}_{number}(x):\n    return x {_OPERATIONS[name]} {number}"
        yield {"instruction": f"Write a Python function {name}_{number}(x).", "input": "", "output": code}


def humaneval_rows() -> Iterator[Row]:
    """Functions to complete, with tests, in HumanEval's columns."""
    for index in range(HUMANEVAL_ROWS):
        name, sign = tuple(_OPERATIONS.items())[index % len(_OPERATIONS)]
        entry, number = f"{name}_{index + 2}", index + 2
        yield {
            "task_id": f"Tiny/{index}",
            "prompt": f'def {entry}(x):\n    """{name.capitalize()} {number}: the result of x {sign} {number}."""\n',
            "entry_point": entry,
            "canonical_solution": f"    return x {sign} {number}\n",
            "test": f"def check(candidate):\n    assert candidate(7) == 7 {sign} {number}\n",
        }


def write_tasks(folder: Path) -> None:
    """Write every data set below a folder."""
    world = make_world()
    files: dict[str, Iterator[Row]] = {
        "alpaca/alpaca_data.jsonl": alpaca_rows(world),
        "gsm8k/train.jsonl": gsm8k_rows(world, GSM8K_ROWS, _SEEDS["gsm8k"]),
        "gsm8k/test.jsonl": gsm8k_rows(world, GSM8K_ROWS // 8, _SEEDS["gsm8k"] + 100),
        "humaneval/HumanEval.jsonl": humaneval_rows(),
        **{f"mmlu/{split}.jsonl": mmlu_rows(world, split) for split in MMLU_SIZES},
        **{f"mmlu_pro/{split}.jsonl": mmlu_pro_rows(world, split) for split in MMLU_PRO_SIZES},
    }
    for name, rows in files.items():
        write_text(folder / name, "".join(json.dumps(row) + "\n" for row in rows))
    write_text(folder / "codealpaca" / "code_alpaca_2k.json", json.dumps(list(code_rows()), indent=1) + "\n")
    write_commonsense(folder / "commonsense", world)
    write_glue(folder / "glue", world)
    write_nlg(folder, world)
