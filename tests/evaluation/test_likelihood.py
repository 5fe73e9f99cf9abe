"""Answers of several tokens: the tree of them gives the same sums as reading every answer behind its prompt."""

from __future__ import annotations

import random

import pytest
import torch
from toy import WORDS, make_model, make_tokenizer, make_tokenizer_of_parts

from sharelora.evaluation.likelihood import prepare_answers, score_answers, tree
from sharelora.evaluation.reference import score_answers_one_by_one
from sharelora.evaluation.tokens import Item
from sharelora.support.errors import UserError

# They part at several places, some end earlier than others, and all begin alike.
ANSWERS = tuple(f"the answer is {text}" for text in ("fox", "fox hat", "wolf and hat", "wolf and drum", "tin"))
DISTINCT = tuple(text for text in ANSWERS if text != "the answer is fox")


def make_items(count: int = 12) -> list[Item]:
    """Prompts of several groups that ask for one of a few answers."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(count)]
    kinds = (DISTINCT, ("the answer is true", "the answer is false"))
    return [Item(f"Group {n % 2} asks:", f" {text}?\n", kinds[n % 2], f"group {n % 2}") for n, text in enumerate(texts)]


def test_a_tree_has_a_step_for_every_place_to_look_at() -> None:
    found = tree([(1, 2, 3), (1, 2, 4, 5), (1, 2, 4, 6), (1, 2, 7, 8)])
    assert found.nodes == (((1, 2), (3, 4, 7)), ((1, 2, 4), (5, 6)), ((1, 2, 7), (8,)))
    assert found.answers == (((0, 0),), ((0, 1), (1, 0)), ((0, 1), (1, 1)), ((0, 2), (2, 0)))
    # Words that differ in their last token are one prompt.
    assert tree([(9, 1), (9, 2)]).nodes == (((9,), (1, 2)),)


def test_an_answer_that_begins_another_one_is_refused() -> None:
    for answers in ([(1, 2), (1, 2, 3)], [(1, 2), (1, 2)], [(), (1,)]):
        with pytest.raises(UserError, match="an answer whose tokens begin another answer's"):
            tree(answers)
    with pytest.raises(UserError, match="begin another answer's"):
        prepare_answers(make_tokenizer(), [Item("", "What?", ANSWERS)])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("batch_size", [3, "auto"])
def test_equals_the_plain_way(kind: str, share_prefix: bool, batch_size: int | str) -> None:
    model, tokenizer, items = make_model(kind), make_tokenizer(), make_items()
    prepared = prepare_answers(tokenizer, items)
    assert max(len(made.nodes) for made in prepared.trees) > 2, "one step would prove little"
    found = score_answers(model, prepared, batch_size, share_prefix)
    expected = score_answers_one_by_one(model, tokenizer, items)
    for one, other in zip(found.choices, expected.choices, strict=True):
        assert one.prediction == other.prediction
        assert one.scores == pytest.approx(other.scores, abs=2e-4)
    assert len({choice.prediction for choice in expected.choices}) > 1
    assert (found.tokens < 0.8 * found.prompt_tokens) == share_prefix


def test_the_sum_is_the_log_probability_of_the_whole_answer() -> None:
    """Word for word from the model's own logits, with the prompt and the answer tokenised each by itself."""
    model, tokenizer = make_model(), make_tokenizer()
    item = make_items(1)[0]
    (choice,) = score_answers(model, prepare_answers(tokenizer, [item])).choices
    prompt = [0, *tokenizer.encode(item.prefix + item.text, add_special_tokens=False)]
    sums = []
    for answer in item.answers:
        ids = tokenizer.encode(answer, add_special_tokens=False)
        with torch.no_grad():
            log_p = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        sums.append(sum(float(log_p[len(prompt) - 1 + place, token]) for place, token in enumerate(ids)))
    # What all answers begin with costs each of them the same.
    shift = sums[0] - choice.scores[0]
    assert choice.scores == pytest.approx([value - shift for value in sums], abs=2e-4)
    assert shift < -0.1


def test_prompt_and_answer_are_tokenised_apart_as_in_tuning() -> None:
    """A tokenizer that would join the prompt's last word with the answer's first must not."""
    joining = make_tokenizer_of_parts({"is:": 3, "a": 4, "b": 5, "is:a": 6, "is:b": 7})
    (encoded,) = prepare_answers(joining, [Item("", "is:", ("a", "b"))]).encoded
    assert encoded.ids == (0, 3) and encoded.answers == (4, 5)


def test_prompts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"with more than 9 tokens.*\(group 0 \d+, group 1 \d+\); need prompts that fit"
    ):
        prepare_answers(make_tokenizer(), make_items(), limit=9)
    with pytest.raises(UserError, match="with more than 16 tokens"):
        score_answers(make_model(context=16), prepare_answers(make_tokenizer(), make_items()))


def test_nothing_to_do() -> None:
    assert score_answers(make_model(), prepare_answers(make_tokenizer(), [])).choices == ()
