"""What texts begin with: in training, as tokenizers of each kind write them, and in an exam's prompts."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from sharelora.data.arguments import DataArguments
from sharelora.data.begin import ALWAYS, AUTO, NEVER, Beginning, begin_token, begun, own_beginning
from sharelora.data.tokenise import Encoder
from sharelora.evaluation.generation.settings import Prompt, encode
from sharelora.evaluation.tokens import Item, encode_items, encode_prompts
from sharelora.layer_groups import texts
from sharelora.layer_groups.texts import Sample


def made(special: tuple[str, ...], writes: str, **roles: str) -> Any:
    """A tokenizer of letters; `writes` is how it writes one text, with `$A` for the text itself."""
    words = {token: number for number, token in enumerate([*special, "a", "b", "c", "d"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="d"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ids = [(token, words[token]) for token in special]
    tokenizer.post_processor = TemplateProcessing(single=writes, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


# Kind -> the tokenizer; its begin token's id if it has one; the special tokens that it writes before a text.
KINDS: dict[str, tuple[Any, list[int], list[int]]] = {
    "gpt2": (made(("<|endoftext|>",), "$A", bos_token="<|endoftext|>", eos_token="<|endoftext|>"), [0], []),
    "llama2": (made(("</s>", "<s>"), "<s> $A", bos_token="<s>", eos_token="</s>"), [1], [1]),
    "llama3": (
        made(("<|begin_of_text|>", "<|eot_id|>"), "<|begin_of_text|> $A", bos_token="<|begin_of_text|>", eos_token="d"),
        [0],
        [0],
    ),
    "gemma": (made(("<pad>", "<eos>", "<bos>"), "<bos> $A", bos_token="<bos>", eos_token="<eos>"), [2], [2]),
    "qwen": (made(("<|endoftext|>",), "$A", eos_token="<|endoftext|>"), [], []),
    "glm": (made(("[gMASK]", "<sop>", "<eos>"), "[gMASK] <sop> $A", eos_token="<eos>"), [], [0, 1]),
    "with an end": (made(("<s>", "</s>"), "<s> $A </s>", bos_token="<s>", eos_token="</s>"), [0], [0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_training_puts_before_a_text_and_what_the_tokenizer_writes(kind: str) -> None:
    tokenizer, token, own = KINDS[kind]
    assert (begin_token(tokenizer), own_beginning(tokenizer)) == (token, own)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bos", "tuned", "which"),
    [
        (AUTO, None, "own"),
        (AUTO, True, "token"),
        (AUTO, False, "none"),
        *((ALWAYS, tuned, "token") for tuned in (None, True, False)),
        *((NEVER, tuned, "none") for tuned in (None, True, False)),
    ],
)
def test_prompts_begin_as_the_flag_says(kind: str, bos: str, tuned: bool | None, which: str) -> None:
    tokenizer, token, own = KINDS[kind]
    begin = Beginning.choose(tokenizer, bos, tuned)
    expected = {"own": own, "token": token, "none": []}[which]
    letters = tokenizer("a b", add_special_tokens=False)["input_ids"]
    assert list(begin.ids) == expected
    assert encode_prompts(tokenizer, [("a", " b")], begin.ids) == [((*expected, letters[0]), (letters[1],))]
    assert encode(tokenizer, [Prompt("", "a b")], begin.ids)[0].ids == (*expected, *letters)
    assert encode_items(tokenizer, [Item("", "a", (" b", " c"))], begin.ids)[0].ids == (*expected, letters[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_is_what_the_tokenizer_itself_does(kind: str) -> None:
    tokenizer = KINDS[kind][0]
    ids = encode(tokenizer, [Prompt("", "a b")], Beginning.choose(tokenizer).ids)[0].ids
    whole = tokenizer("a b")["input_ids"]
    assert list(ids) == [token for token in whole if kind != "with an end" or token != tokenizer.eos_token_id]


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_asked_as_it_was_tuned(kind: str) -> None:
    tokenizer = KINDS[kind][0]
    encoder = Encoder(tokenizer, DataArguments(dataset="x"))
    rows, _ = encoder.encode([{"input": "a b", "output": "c"}], "train")
    prompt = encode(tokenizer, [Prompt("", "a b")], Beginning.choose(tokenizer, AUTO, tuned=True).ids)[0].ids
    row = rows[0]["input_ids"].tolist()
    assert row[: len(prompt)] == list(prompt) and len(row) == len(prompt) + 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("glm", "with an end")])
def test_layers_are_compared_on_texts_that_begin_as_in_training(kind: str) -> None:
    tokenizer, token, own = KINDS[kind]
    letters = tokenizer("a b c", add_special_tokens=False)["input_ids"]
    sample = Sample("x", ("a b c",))
    assert texts.encode(tokenizer, sample, 9) == [[*token, *letters]]
    # Data-to-text begins no row with it.
    assert texts.encode(tokenizer, sample, 9, begin=()) == [[*own, *letters]]


def test_a_text_that_writes_the_begin_token_itself_has_it_once() -> None:
    tokenizer = KINDS["llama2"][0]
    assert begun([1, 5], [1]) == begun([5], [1]) == [1, 5] and begun([5], []) == [5]
    assert encode(tokenizer, [Prompt("", "<s> a")])[0].ids == encode(tokenizer, [Prompt("", "a")])[0].ids


@pytest.mark.parametrize(
    ("kind", "bos", "tuned", "line"),
    [
        ("gpt2", AUTO, None, "  prompts begin with no special token (as the tokenizer writes texts)"),
        ("gpt2", AUTO, True, "  prompts begin with <|endoftext|> (as rows do when this project tunes such an adapter)"),
        ("llama2", AUTO, None, "  prompts begin with <s> (as the tokenizer writes texts)"),
        ("llama2", NEVER, None, "  prompts begin with no special token (--bos never)"),
        ("gemma", ALWAYS, None, "  prompts begin with <bos> (--bos always)"),
        ("qwen", ALWAYS, None, "  prompts begin with no special token (the tokenizer has no begin token)"),
        ("glm", AUTO, None, "  prompts begin with [gMASK]<sop> (as the tokenizer writes texts)"),
    ],
)
def test_what_was_done_is_said(kind: str, bos: str, tuned: bool | None, line: str) -> None:
    begin = Beginning.choose(KINDS[kind][0], bos, tuned)
    assert begin.line() == line
    assert begin.to_json() == {"token": begin.text or None, "ids": list(begin.ids), "reason": begin.reason}
