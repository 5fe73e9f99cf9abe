"""The beam search against its definition, transformers' own where both mean the same, and itself in other batches."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LogitsProcessorList

from sharelora import ShareLoraConfig
from sharelora.evaluation.beam import decoding, search, tree
from sharelora.evaluation.beam.decoding import decode
from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.beam.settings import BeamSettings, MinLength, NoRepeatedNgram, RepetitionPenalty, processors
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.evaluation.reference import reference_search
from sharelora.support.errors import UserError

VOCABULARY, PAD = 40, 0
# Several end tokens, so that random texts end now and then.
EOS = (3, 7, 11, 20, 29)


def make_model(seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """A random GPT-2 that is sure of itself; in 64 bits the order of sums decides nothing."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=2, n_positions=48, bos_token_id=PAD)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 2:
                value.normal_(std=0.25)
    return model.to(dtype).eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


def make_prompts(count: int = 7, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 20))] for _ in range(count)]


def given(**changes: Any) -> BeamSettings:
    return BeamSettings(**{"eos_ids": EOS, "eval_len": 10, **changes})


def agree(found: Any, expected: Any) -> None:
    assert [text.ids for text in found] == [text.ids for text in expected]
    assert [text.score for text in found] == pytest.approx([text.score for text in expected], rel=1e-9)


# Against the definition


CASES = [
    {"beam": 1},
    {"beam": 1, "no_repeat_ngram_size": 1, "length_penalty": 0.0},
    {"beam": 2, "length_penalty": 0.8},
    {"beam": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.4},
    {"beam": 3, "length_penalty": -1.0, "no_repeat_ngram_size": 0},
    {"beam": 5, "length_penalty": 0.9, "min_length": 4},
    {"beam": 5, "length_penalty": 2.0, "no_repeat_ngram_size": 3, "repetition_penalty": 0.7},
    {"beam": 8, "length_penalty": 0.8, "eos_ids": (5,), "min_length": 10},
    {"beam": 10, "length_penalty": 0.8, "min_length": 1, "eval_len": 6},
    {"beam": 4, "eval_len": 1},
    {"beam": VOCABULARY, "eval_len": 3},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_texts_and_scores_are_those_of_the_definition(model: Any, case: dict[str, Any]) -> None:
    prompts, settings = make_prompts(), given(**case)
    found = decode(model, prompts, settings, PAD, batch_size=len(prompts))
    agree(found.best, [reference_search(model, prompt, settings) for prompt in prompts])


@pytest.mark.parametrize("seed", [1, 2])
def test_so_it_is_with_an_adapter_and_with_other_weights(seed: int) -> None:
    adapted = get_peft_model(
        make_model(seed), ShareLoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, share="a")
    )
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora" in name:
                value.normal_(std=0.4)
    adapted.double()
    prompts, settings = make_prompts(4, seed), given(beam=4, length_penalty=0.8)
    found = decode(adapted, prompts, settings, PAD)
    agree(found.best, [reference_search(adapted.eval(), prompt, settings) for prompt in prompts])
    plain = decode(adapted.get_base_model(), prompts, settings, PAD).best
    with adapted.disable_adapter():
        bare = decode(adapted, prompts, settings, PAD).best
    assert plain == found.best != bare


def test_the_cases_have_texts_that_end_and_texts_that_do_not(model: Any) -> None:
    found = decode(model, make_prompts(), given(beam=3), PAD).best
    ended = [text.ids[-1] in EOS for text in found]
    assert any(ended) and not all(ended)
    assert any(len(text.ids) < 10 for text in found)
    assert all(not set(text.ids[:-1]) & set(EOS) for text in found)


# Against transformers


def test_one_beam_is_greedy_search(model: Any) -> None:
    prompts = make_prompts()
    found = decode(model, prompts, given(beam=1, no_repeat_ngram_size=0), PAD).best
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        greedy = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, eos_token_id=list(EOS), pad_token_id=PAD
        )
        assert text.ids == tuple(greedy[0, len(prompt) :].tolist())


def test_where_no_text_can_end_it_is_transformers_beam_search(model: Any) -> None:
    prompts = make_prompts()
    found = decode(model, prompts, given(beam=5, no_repeat_ngram_size=0, min_length=10), PAD).best
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=10,
            num_beams=5,
            pad_token_id=PAD,
            suppress_tokens=list(EOS),
            renormalize_logits=True,
            return_dict_in_generate=True,
            output_scores=True,
        )
        assert text.ids == tuple(theirs.sequences[0, len(prompt) :].tolist())
        assert text.score == pytest.approx(theirs.sequences_scores[0].item(), rel=1e-5)


# Against itself


@pytest.mark.parametrize("size", [1, 2, 5, "auto"])
def test_every_batch_size_gives_the_texts_of_batch_1(model: Any, size: int | str) -> None:
    prompts, settings = make_prompts(23, seed=5), given(beam=6, length_penalty=0.8)
    alone = [decode(model, [prompt], settings, PAD).best[0] for prompt in prompts]
    found = decode(model, prompts, settings, PAD, size)
    agree(found.best, alone)
    assert found.batch_size == (15 if size == "auto" else size)
    assert found.prompt_tokens == sum(map(len, prompts))


@pytest.mark.parametrize("penalty", [0.0, 0.8, 2.0, -1.0])
def test_dropping_beams_that_cannot_win_changes_no_text(
    model: Any, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, settings = make_prompts(12, seed=3), given(beam=3, length_penalty=penalty)
    early = decode(model, prompts, settings, PAD)
    monkeypatch.setattr(search._Search, "_can_win", lambda run, scores, length: scores > -torch.inf)
    whole = decode(model, prompts, settings, PAD)
    # A high penalty lets the longest texts win, so nothing can be dropped but texts that have ended.
    assert early.beam_tokens < whole.beam_tokens < 12 * 3 * 9 or penalty > 1
    agree(early.best, whole.best)


@pytest.mark.parametrize("case", [{"beam": 6, "length_penalty": 0.8, "eval_len": 20}, {"beam": 1}], ids=str)
def test_beams_in_rows_of_their_own_have_the_texts_of_the_tree(
    model: Any, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, settings = make_prompts(9, seed=4), given(**case)
    assert tree.can_read_tree(PromptReader(model), prompts[0][:1] * 4)
    found = decode(model, prompts, settings, PAD)
    monkeypatch.setattr(decoding, "can_read_tree", lambda reader, ids: False)
    rows = decode(model, prompts, settings, PAD)
    # Rows of their own are kept for beams that have ended, too.
    assert found.beam_tokens < rows.beam_tokens or case["beam"] == 1
    agree(found.best, rows.best)


def test_the_mode_the_gradients_and_chance_stay_as_they_were(model: Any) -> None:
    model.train()
    before = torch.get_rng_state()
    first = decode(model, make_prompts(3), given(beam=2), PAD).best
    assert model.training and torch.equal(torch.get_rng_state(), before)
    assert first == decode(model.eval(), make_prompts(3), given(beam=2), PAD).best


def test_half_precision_sums_in_full(model: Any) -> None:
    found = decode(make_model(dtype=torch.bfloat16), make_prompts(3), given(beam=2), PAD).best
    assert all(-20 < text.score < 0 for text in found)


# What is done to the logits


@pytest.mark.parametrize("vocabulary", [40, 640, 64 * 12, 1000])
def test_the_likeliest_tokens_are_those_of_the_whole_vocabulary(
    vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_CACHED", 3000)
    logits = torch.randn(7, vocabulary, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # The likeliest side by side, at the end, and few that are allowed at all.
    logits[0, 5:8], logits[1, -2:], logits[2, 2:] = 9.0 + torch.arange(3), 8.0 + torch.arange(2), -torch.inf
    log_p, tokens = search._likeliest(logits, 3)
    expected = logits.log_softmax(-1).topk(3)
    assert torch.allclose(log_p, expected.values)
    finite = expected.values.isfinite()
    assert torch.equal(tokens[finite], expected.indices[finite])


def test_a_repeated_token_is_penalised_once_and_the_prompts_words_are_not() -> None:
    ids, logits = (
        torch.tensor([[9, 1, 2, 2], [9, 3, 4, 5]]),
        torch.tensor([[1.0, -1.0, 4.0, 2.0, 3.0, 0.0] + [1] * 4] * 2),
    )
    changed = RepetitionPenalty(2.0, prompt=1)(ids, logits.clone())
    assert changed[0].tolist() == [1, -2, 2, 2, 3, 0, 1, 1, 1, 1]
    assert changed[1].tolist() == [1, -1, 4, 1, 1.5, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("size", "banned"), [(1, {1, 2, 5}), (2, {2, 5}), (3, {5}), (4, set()), (5, set()), (7, set()), (9, set())]
)
def test_a_token_that_would_repeat_a_sequence_is_banned(size: int, banned: set[int]) -> None:
    # The prompt's 8 does not count; after "2 1" once came 5, after "1" once 2 and once 5.
    ids, logits = torch.tensor([[8, 8, 1, 2, 1, 5, 2, 1]]), torch.zeros(1, 9)
    found = NoRepeatedNgram(size, prompt=2)(ids, logits)
    assert {token for token in range(9) if found[0, token] == -torch.inf} == banned


def test_no_text_ends_before_its_least_length() -> None:
    for generated, forbidden in ((0, True), (2, True), (3, False)):
        ids = torch.zeros(1, 4 + generated, dtype=torch.long)
        found = MinLength(3, (1, 5), prompt=4)(ids, torch.zeros(1, 8))
        assert (found[0] == -torch.inf).nonzero().flatten().tolist() == ([1, 5] if forbidden else [])


def test_processors_come_in_upstreams_order_and_only_if_they_do_something() -> None:
    every = processors(given(repetition_penalty=1.1, min_length=2), 3)
    assert [type(found) for found in every] == [RepetitionPenalty, MinLength, NoRepeatedNgram]
    none: LogitsProcessorList = processors(given(no_repeat_ngram_size=0), 3)
    assert list(none) == []


# Memory, bad input


def test_a_batch_that_is_too_large_is_halved(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, settings = make_prompts(9), given(beam=2)
    expected = decode(model, prompts, settings, PAD).best
    real, sizes = decoding.search_batch, []

    def small(model: Any, prompts: Any, *rest: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("too much")
        return real(model, prompts, *rest)

    monkeypatch.setattr(decoding, "search_batch", small)
    agree(decode(model, prompts, settings, PAD, batch_size=8).best, expected)
    assert sizes == [8, 4, 2, 2, 2, 2, 1]


def test_what_is_found_is_given_away_batch_by_batch(model: Any) -> None:
    prompts, settings, kept = make_prompts(5), given(beam=2), {}  # type: ignore[var-annotated]
    calls: list[tuple[int, int]] = []
    found = decode(
        model, prompts, settings, PAD, 2, kept.update, lambda done, total, tokens: calls.append((done, total))
    )
    assert [kept[index] for index in range(5)] == list(found.best)
    assert calls == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam": 0}, "found --beam 0; need at least 1"),
        ({"eval_len": 0}, "found --eval_len 0; need at least 1"),
        ({"min_length": -1}, "found --min_length -1; need at least 0"),
        ({"min_length": 11}, "found --min_length 11; need at most --eval_len, which is 10"),
        ({"no_repeat_ngram_size": -2}, "found --no_repeat_ngram_size -2"),
        ({"repetition_penalty": 0.0}, "need a number above 0"),
        ({"length_penalty": float("nan")}, "found --length_penalty nan"),
        ({"eos_ids": ()}, "found no end token"),
        ({"eos_ids": (3, 628)}, "found end token 628; need a token below 40"),
        ({"beam": 41}, "found --beam 41 with a vocabulary of 40 tokens"),
        ({"eval_len": 40}, "found a prompt of 20 tokens and texts of up to 40; need both together within .* 48"),
    ],
)
def test_settings_that_cannot_be(model: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode(model, [[5] * 20], given(**change), PAD)


@pytest.mark.parametrize("size", [0, -1, "many"])
def test_a_batch_size_that_cannot_be(model: Any, size: int | str) -> None:
    with pytest.raises(UserError, match=f"found batch size {size}"):
        decode(model, [[5]], given(), PAD, size)


def test_a_prompt_without_tokens(model: Any) -> None:
    with pytest.raises(UserError, match="found a prompt without tokens"):
        decode(model, [[5], []], given(), PAD)


def test_no_prompts_no_texts(model: Any) -> None:
    assert decode(model, [], given(), PAD).best == ()


def test_the_reference_is_right_where_everything_can_be_tried(model: Any) -> None:
    # With as many beams as there are tokens, texts of two tokens are all looked at.
    settings = given(beam=VOCABULARY, eval_len=2, length_penalty=0.8, no_repeat_ngram_size=0)
    for prompt in make_prompts(3):
        texts = [(a,) for a in EOS] + [
            (a, b) for a, b in itertools.product(range(VOCABULARY), repeat=2) if a not in EOS
        ]
        with torch.no_grad():
            first = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            ids = torch.tensor([[*prompt, token] for token in range(VOCABULARY)])
            second = model(ids).logits[:, -1].log_softmax(-1)
        sums = {text: (first[text[0]] + (second[text] if len(text) == 2 else 0)).item() for text in texts}
        best = max(texts, key=lambda text: sums[text] / len(text) ** 0.8)
        assert reference_search(model, prompt, settings) == Hypothesis(
            best, pytest.approx(sums[best] / len(best) ** 0.8, rel=1e-9)
        )
