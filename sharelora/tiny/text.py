"""The text of the tiny LLaMA: sentences, stories, solved questions and instructions about the little world.

Every maker takes the world and a random source and returns one document, as pieces that are tokenised one by one: an
answer to an instruction is a piece of its own, as it is in tuning. No document says what an invented word means.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from sharelora.data.formats import FORMATS
from sharelora.data.questions import LETTERS, PROMPTS, Question
from sharelora.tiny.world import PEOPLE, POSITIONS, World, subject

Document = tuple[str, ...]
Maker = Callable[[World, random.Random], Document]
Columns = tuple[str, str, str]

TEMPLATES = (
    "Which of these is the {} one?",
    "Choose the {} of these.",
    "Which is the {} in this list?",
    "Find the {} word below.",
)
STORIES = (
    "{person} saw the {colour} {thing} in the {place}.",
    "In the {place} {person} found a {thing}. It was {colour}.",
    "{person} asked {friend} for the {colour} {thing}, but it was still in the {place}.",
    "{person} told {friend} about the {thing} and the {other}.",
    "The {language} word of the day is {word}, said {person}.",
    "{person} wrote the {language} words {word} and {word2} on the wall.",
    "Does {friend} speak {language}? {person} knows the word {word}.",
    "{person} was the {position} to come to the {place}. {friend} said {word} again.",
)
MEANINGS = ("The {word} one is {letter}.", "The word {word} means {english}.", "Letter {letter} is the {word} letter.")
STATEMENTS = {
    "kind": "The {} is a kind of {}.",
    "colour": "The {} is {}.",
    "place": "The {} is found in the {}.",
}
ASKED = {
    "kind": "What kind of thing is the {}?",
    "colour": "What colour is the {}?",
    "place": "Where is the {} found?",
}


def position_question(world: World, rng: random.Random, name: str, word: str, position: int) -> Question:
    """A question for the option at a position; the options themselves are any things.

    Args:
        name: the question's subject.
        word: the word for the position.
        position: its index.
    """
    choices = tuple(rng.sample(world.things, len(POSITIONS)))
    return Question(name, rng.choice(TEMPLATES).format(word), choices, LETTERS[position])


def known_question(world: World, rng: random.Random, language: str | None = None) -> Question:
    """A question with a word of a known language."""
    language = language or rng.choice(tuple(world.known))
    word, position = rng.choice(tuple(world.known[language].items()))
    return position_question(world, rng, subject(language), word, position)


def dictionary(world: World, rng: random.Random) -> Document:
    """What words of known languages mean, and which letter is at that position."""
    lines = []
    for _ in range(rng.randint(2, 8)):
        language = rng.choice(tuple(world.known))
        word, position = rng.choice(tuple(world.known[language].items()))
        lines.append(rng.choice(MEANINGS).format(word=word, letter=LETTERS[position], english=POSITIONS[position]))
    return (" ".join(lines),)


def quiz(world: World, rng: random.Random) -> Document:
    """Some solved questions, mostly under MMLU's first line."""
    language = rng.choice(tuple(world.known))
    solved = [known_question(world, rng, language) for _ in range(rng.randint(1, 6))]
    text = PROMPTS["qlora"].prefix(solved[0].subject, solved).rstrip()
    return (text if rng.random() < 0.7 else text.partition("\n\n")[2],)


def facts(world: World, rng: random.Random) -> Document:
    """What is true of a few things."""
    return (" ".join(_statement(world, rng) for _ in range(rng.randint(1, 5))),)


def _statement(world: World, rng: random.Random) -> str:
    thing, name = rng.choice(world.things), rng.choice(tuple(STATEMENTS))
    return STATEMENTS[name].format(thing, world.facts[name][thing])


def story(world: World, rng: random.Random) -> Document:
    """A few sentences about people, things and words."""
    return (" ".join(_happening(world, rng) for _ in range(rng.randint(1, 4))),)


def _happening(world: World, rng: random.Random) -> str:
    thing, other = rng.sample(world.things, 2)
    person, friend = rng.sample(PEOPLE, 2)
    language = rng.choice(tuple(world.invented))
    word, word2 = rng.sample(tuple(world.invented[language]), 2)
    return rng.choice(STORIES).format(
        thing=thing,
        other=other,
        person=person,
        friend=friend,
        language=language,
        word=word,
        word2=word2,
        position=rng.choice(POSITIONS),
        colour=world.facts["colour"][thing],
        place=world.facts["place"][thing],
    )


def question_columns(question: Question) -> Columns:
    """A question as instruction, input and output."""
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
    return question.question, options, question.answer


def quiz_columns(question: Question, solved: Sequence[Question]) -> Columns:
    """A question written as in MMLU's prompts, after solved ones, as instruction, input and output."""
    prompt = PROMPTS["qlora"]
    return "Answer the last question.", prompt.prefix(question.subject, solved) + prompt.item(question), question.answer


def fact_columns(world: World, rng: random.Random) -> Columns:
    """A question about a thing as instruction, input and output."""
    thing, name = rng.choice(world.things), rng.choice(tuple(ASKED))
    return ASKED[name].format(thing), "", STATEMENTS[name].format(thing, world.facts[name][thing])


def known_quiz_columns(world: World, rng: random.Random) -> Columns:
    """A few questions with words of one known language; the last one is asked."""
    language = rng.choice(tuple(world.known))
    question, *solved = (known_question(world, rng, language) for _ in range(rng.randint(1, 4)))
    return quiz_columns(question, solved)


def meaning_columns(word: str, position: int, rng: random.Random) -> Columns:
    """What a word means, or which letter is there, as instruction, input and output."""
    if rng.random() < 0.5:
        return "Which letter stands at this place?", word, LETTERS[position]
    return "What does this word mean?", word, f"The word {word} means {POSITIONS[position]}."


def known_meaning_columns(world: World, rng: random.Random) -> Columns:
    """The meaning of a word of a known language."""
    return meaning_columns(*rng.choice(tuple(world.known[rng.choice(tuple(world.known))].items())), rng)


def sum_columns(world: World, rng: random.Random) -> Columns:
    """A sum as instruction, input and output."""
    first, second = rng.randint(1, 9), rng.randint(1, 9)
    return "Add the numbers.", f"{first}, {second}", str(first + second)


def instruction(world: World, rng: random.Random) -> Document:
    """An instruction in the Alpaca prompt, and its answer."""
    kind = rng.choices(("question", "quiz", "meaning", "fact", "sum"), (4, 3, 2, 2, 1))[0]
    columns = {
        "question": lambda: question_columns(known_question(world, rng)),
        "quiz": lambda: known_quiz_columns(world, rng),
        "meaning": lambda: known_meaning_columns(world, rng),
        "fact": lambda: fact_columns(world, rng),
        "sum": lambda: sum_columns(world, rng),
    }[kind]()
    return FORMATS["alpaca"][0].prompt({"instruction": columns[0], "input": columns[1]}), columns[2]


# How often each kind of document is read.
MIXTURE: dict[Maker, int] = {facts: 10, story: 25, dictionary: 15, quiz: 25, instruction: 25}


def documents(world: World, rng: random.Random) -> Iterator[Document]:
    """Documents without end, in the proportions of `MIXTURE`."""
    makers, weights = list(MIXTURE), list(MIXTURE.values())
    while True:
        yield rng.choices(makers, weights)[0](world, rng)
