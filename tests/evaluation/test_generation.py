"""The generation engine against the plain way, itself in other batches, and what it goes on from and refuses."""

from __future__ import annotations

import functools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from toy import WORDS, make_model, make_tokenizer
from transformers import PreTrainedTokenizerFast

from sharelora import ShareLoraConfig
from sharelora.evaluation.generation.engine import TextStore, generate, windows
from sharelora.evaluation.generation.sampling import StoppingCriteria, choose, cut, draws, end_tokens, nucleus
from sharelora.evaluation.generation.settings import Generated, GenerationSettings, Prompt, encode
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.evaluation.reference import generate_one_by_one
from sharelora.support.errors import UserError

TOKENIZER = make_tokenizer()
GREEDY = GenerationSettings(12)
DRAWN = GenerationSettings(12, temperature=0.9, top_p=0.8, seed=3, samples=2)


@pytest.fixture(scope="module")
def model() -> Any:
    return decisive()


def decisive(kind: str = "llama", **options: Any) -> Any:
    """A random model with several end tokens, so that some texts end before the others."""
    made = make_model(kind, **options)
    made.generation_config.eos_token_id = [1, *range(40, 64)]
    return made


def make_prompts(count: int = 9, prefixes: int = 2, seed: int = 0) -> list[Prompt]:
    """Prompts of very different lengths; some share a beginning."""
    rng = random.Random(seed)
    shared = ["".join(f"Which is {word}?\n" for word in WORDS[n : n + 3]) for n in range(prefixes)]
    return [
        Prompt(shared[n % prefixes] if prefixes else "", "Which " + " ".join(rng.choices(WORDS, k=rng.randint(1, 9))))
        for n in range(count)
    ]


def test_a_model_generates_texts_that_end_in_different_ways(model: Any) -> None:
    found = generate_one_by_one(model, TOKENIZER, make_prompts(), DRAWN)
    assert set(Counter(text.ended for text in found)) == {"eos", "length"}
    assert len({text.tokens for text in found}) > 3 and len({text.text for text in found}) > 9


# Against the plain way

CASES = {
    "greedy": GREEDY,
    "one token": GenerationSettings(1),
    "drawn": DRAWN,
    "drawn from all": GenerationSettings(9, temperature=1.3, samples=3),
    "a narrow nucleus": GenerationSettings(9, temperature=0.7, top_p=0.2, seed=1),
    "stopped": GenerationSettings(16, temperature=1.0, stop=("e", " w", "zz"), samples=2),
}


@functools.cache
def expected_of(kind: str, case: str) -> list[Generated]:
    return generate_one_by_one(decisive(kind), TOKENIZER, make_prompts(7), CASES[case])


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "sliding"])
@pytest.mark.parametrize("case", CASES)
def test_texts_are_those_of_the_plain_way(kind: str, case: str, batch_size: int | str) -> None:
    found = generate(decisive(kind), TOKENIZER, make_prompts(7), CASES[case], batch_size)
    assert found == expected_of(kind, case)


@pytest.mark.parametrize("prefixes", [0, 1, 9])
def test_what_prompts_share_changes_no_text(model: Any, prefixes: int) -> None:
    prompts = make_prompts(prefixes=prefixes)
    whole = [Prompt("", prompt.prefix + prompt.text, prompt.name) for prompt in prompts]
    assert generate(model, TOKENIZER, prompts, DRAWN) == generate(model, TOKENIZER, whole, DRAWN)


def test_what_prompts_share_is_read_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = PromptReader.call

    def counted(self: Any, ids: Any, *rest: Any, **options: Any) -> Any:
        read.append(ids.numel())
        return original(self, ids, *rest, **options)

    prompts = make_prompts(prefixes=1)
    monkeypatch.setattr(PromptReader, "call", counted)
    generate(model, TOKENIZER, prompts, GenerationSettings(1))
    shared, read[:] = sum(read), []
    generate(model, TOKENIZER, [Prompt("", prompt.prefix + prompt.text) for prompt in prompts], GenerationSettings(1))
    prefix = len(encode(TOKENIZER, prompts)[0].start)
    assert prefix > 20 and sum(read) - shared > 7 * prefix


def test_the_samples_of_a_prompt_read_it_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    original = PromptReader.call

    def counted(self: Any, ids: Any, *rest: Any, **options: Any) -> Any:
        read.append(tuple(ids.shape))
        return original(self, ids, *rest, **options)

    monkeypatch.setattr(PromptReader, "call", counted)
    generate(model, TOKENIZER, make_prompts(1, 0), GenerationSettings(2, temperature=1.0, samples=6), batch_size=6)
    length = encode(TOKENIZER, make_prompts(1, 0))[0].length
    assert [shape for shape in read if shape[1] == length] == [(1, length)] and max(rows for rows, _ in read) > 4


def test_finished_texts_leave_the_batch(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = PromptReader.call

    def counted(self: Any, ids: Any, *rest: Any, **options: Any) -> Any:
        rows.append(len(ids))
        return original(self, ids, *rest, **options)

    prompts = make_prompts(8, 0)
    monkeypatch.setattr(PromptReader, "call", counted)
    found = generate(model, TOKENIZER, prompts, GREEDY, batch_size=8)
    steps = [sum(text.tokens > step for text in found) for step in range(1, 12)]
    steps = [count for count in steps if count]
    assert rows[-len(steps) :] == steps and len(set(steps)) > 2


def test_a_text_depends_on_its_seed_and_its_name_alone(model: Any) -> None:
    prompts = [Prompt(prompt.prefix, prompt.text, f"item {n}") for n, prompt in enumerate(make_prompts())]
    settings = GenerationSettings(12, temperature=1.0, seed=5)
    found = dict(zip((prompt.name for prompt in prompts), generate(model, TOKENIZER, prompts, settings), strict=True))
    some = random.Random(0).sample(prompts, 5)
    assert generate(model, TOKENIZER, some, settings, 2) == [found[prompt.name] for prompt in some]
    more = generate(model, TOKENIZER, prompts, GenerationSettings(12, temperature=1.0, seed=5, samples=3))
    assert more[::3] == list(found.values()) and more[1::3] != more[::3]
    other = generate(model, TOKENIZER, prompts, GenerationSettings(12, temperature=1.0, seed=6))
    assert other != list(found.values())


def test_equal_prompts_get_texts_of_their_own(model: Any) -> None:
    found = generate(model, TOKENIZER, [Prompt("", "Which fox")] * 6, GenerationSettings(12, temperature=1.0))
    assert len({text.text for text in found}) > 3


def test_an_adapter_and_half_precision(model: Any) -> None:
    prompts, settings = make_prompts(5), GenerationSettings(6)
    config = ShareLoraConfig(r=4, share="a", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(7)
    adapted = get_peft_model(decisive(), config)
    for name, value in adapted.named_parameters():
        if "lora" in name:
            value.data.normal_(std=0.5)
    found = generate(adapted, TOKENIZER, prompts, settings)
    assert found == generate_one_by_one(adapted.eval(), TOKENIZER, prompts, settings)
    assert found != generate(model, TOKENIZER, prompts, settings)
    half = generate(adapted.to(torch.bfloat16), TOKENIZER, prompts, settings)
    assert len(half) == 5 and all(0 < text.tokens <= 6 for text in half)


def test_mode_and_chance_are_left_as_they_were(model: Any) -> None:
    model.train()
    before = torch.get_rng_state()
    generate(model, TOKENIZER, make_prompts(2), DRAWN)
    assert model.training and torch.equal(torch.get_rng_state(), before)
    model.eval()


def test_progress_and_nothing_to_do(model: Any) -> None:
    seen: list[tuple[int, int, int]] = []
    found = generate(model, TOKENIZER, make_prompts(5), GREEDY, 2, listener=lambda *values: seen.append(values))
    assert seen[-1] == (5, 5, sum(text.tokens for text in found)) and seen == sorted(seen) and len(seen) > 12
    assert generate(model, TOKENIZER, [], GREEDY) == []


# Models that cannot go on from a cache


def test_a_model_that_ignores_its_cache_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = decisive(), make_prompts(4)
    expected = generate_one_by_one(model, TOKENIZER, prompts, DRAWN)
    original = type(model).forward

    def forgetful(
        self: Any, input_ids: Any = None, attention_mask: Any = None, past_key_values: Any = None, **rest: Any
    ) -> Any:
        if past_key_values is not None and input_ids.shape[1] == 1:
            past_key_values, attention_mask = None, attention_mask[:, -1:]
        return original(
            self, input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values, **rest
        )

    monkeypatch.setattr(type(model), "forward", forgetful)
    assert generate(model, TOKENIZER, prompts, DRAWN) == expected


def test_a_model_without_a_cache_reads_everything_again(caplog: pytest.LogCaptureFixture) -> None:
    class Plain(torch.nn.Module):
        """Nothing but token ids in and logits out."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config, self.dtype = inner, inner.config, inner.dtype
            self.generation_config = inner.generation_config

        def get_input_embeddings(self) -> Any:
            return self.inner.get_input_embeddings()

        def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None) -> Any:
            return self.inner(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)

    model, prompts = decisive(), make_prompts(5)
    with caplog.at_level("INFO", "sharelora"):
        assert generate(Plain(model), TOKENIZER, prompts, DRAWN, 4) == generate(model, TOKENIZER, prompts, DRAWN)
    assert "does not continue from a cache" in caplog.text


def test_a_window_that_would_shift_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill stands between a shared beginning and the rest: only a window that sees everything may have it."""
    small, large = decisive("sliding"), decisive("sliding")
    large.config.sliding_window = 250
    prompts, beginnings = make_prompts(6), []
    original = PromptReader.prefix
    monkeypatch.setattr(PromptReader, "prefix", lambda self, ids: (beginnings.append(len(ids)), original(self, ids))[1])
    assert generate(small, TOKENIZER, prompts, DRAWN) == generate_one_by_one(small, TOKENIZER, prompts, DRAWN)
    assert beginnings == [] and windows(small.config) == [24] and windows(decisive().config) == []
    assert generate(large, TOKENIZER, prompts, DRAWN) == generate_one_by_one(large, TOKENIZER, prompts, DRAWN)
    assert beginnings


def test_the_batch_is_halved_and_what_has_ended_stays(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, calls, ended = make_prompts(8, 0), [], []
    expected = generate(model, TOKENIZER, prompts, DRAWN)
    original = PromptReader.call

    def limited(self: Any, ids: Any, mask: Any, *rest: Any, **options: Any) -> Any:
        calls.append(len(ids))
        if len(ids) > 3 and mask.shape[1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, ids, mask, *rest, **options)

    monkeypatch.setattr(PromptReader, "call", limited)
    found = generate(model, TOKENIZER, prompts, DRAWN, listener=lambda done, *_: ended.append(done))
    assert found == expected and max(calls) > 3 and ended == sorted(ended)
    monkeypatch.setattr(PromptReader, "call", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    monkeypatch.setattr("sharelora.evaluation.generation.engine.can_continue", lambda *_, **__: True)
    with pytest.raises(RuntimeError, match="shapes differ"):
        generate(model, TOKENIZER, prompts, DRAWN)


def test_too_little_memory_for_the_examples_is_said(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Any, *_: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PromptReader, "call", never)
    monkeypatch.setattr("sharelora.evaluation.generation.engine.can_continue", lambda *_, **__: True)
    with pytest.raises(UserError, match="single prompt"):
        generate(model, TOKENIZER, make_prompts(4), GREEDY)


# Tokens


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.floats(0.01, 1.0))
def test_the_nucleus_is_the_fewest_tokens_that_reach_the_sum(weights: list[int], top_p: float) -> None:
    p = torch.tensor([[weight + 1.0 for weight in weights]], dtype=torch.float64)
    p = p / p.sum()
    kept = nucleus(p, top_p)[0]
    chosen = sorted(kept[kept > 0].tolist())
    assert sum(chosen) >= min(top_p, p.sum().item()) - 1e-12
    assert sum(chosen[1:]) < top_p + 1e-12, "without its least likely token it would not reach the sum"
    others = p[0][kept == 0].tolist()
    assert not others or max(others) <= chosen[0]


@pytest.mark.parametrize("candidates", [2, 64])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.93, 1.0])
def test_the_nucleus_is_that_of_a_stable_sort(candidates: int, top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.evaluation.generation.sampling.CANDIDATES", candidates)
    torch.manual_seed(0)
    # Many are equally likely.
    p = torch.randint(1, 5, (40, 64)).double()
    p = p / p.sum(-1, keepdim=True)
    ranked, order = p.sort(dim=-1, descending=True, stable=True)
    inside = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, ranked.cumsum(-1) - ranked < top_p)
    assert torch.equal(nucleus(p, top_p), p.masked_fill(~inside, 0.0))


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0]]).repeat(20_000, 1)
    numbers = draws(0, "x", 0, 20_000)
    settings = GenerationSettings(1, temperature=0.5)
    counts = choose(logits, settings, numbers).bincount(minlength=4) / 20_000
    assert counts.tolist() == pytest.approx((logits[0] / 0.5).softmax(-1).tolist(), abs=0.012)
    settings = GenerationSettings(1, temperature=0.5, top_p=0.9)
    counts = choose(logits, settings, numbers).bincount(minlength=4) / 20_000
    assert counts[1] == counts[3] == 0 and counts[2] == pytest.approx(0.1192, abs=0.01)


def test_numbers_of_a_text_do_not_depend_on_how_many_are_asked_for() -> None:
    assert torch.equal(draws(1, "a", 2, 5), draws(1, "a", 2, 500)[:5])
    assert len({draws(seed, name, n, 1).item() for seed in (0, 1) for name in "ab" for n in (0, 1)}) == 8


def test_logits_that_are_no_numbers_are_said(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PromptReader.call

    def broken(self: Any, *rest: Any, **options: Any) -> Any:
        output = original(self, *rest, **options)
        output.logits = output.logits * torch.nan
        return output

    monkeypatch.setattr("sharelora.evaluation.generation.engine.can_continue", lambda *_, **__: True)
    monkeypatch.setattr(PromptReader, "call", broken)
    with pytest.raises(UserError, match="NaN among the logits"):
        generate(model, TOKENIZER, make_prompts(2), GREEDY)


# Ends


def test_a_stop_string_over_several_tokens_ends_a_text_before_it(model: Any) -> None:
    prompts = make_prompts(6)
    whole = generate(model, TOKENIZER, prompts, GenerationSettings(12, temperature=1.0))
    long = max(whole, key=lambda text: len(text.text))
    ids = TOKENIZER(long.text, add_special_tokens=False)["input_ids"]
    stop = long.text[len(TOKENIZER.decode(ids[:3])) - 1 : len(TOKENIZER.decode(ids[:5])) + 1]
    assert len(TOKENIZER(stop, add_special_tokens=False)["input_ids"]) > 1
    settings = GenerationSettings(12, temperature=1.0, stop=(stop, "never there"))
    found = generate(model, TOKENIZER, prompts, settings)
    cut_one = found[whole.index(long)]
    assert cut_one.ended == "stop" and cut_one.text == long.text[: long.text.index(stop)]
    assert cut_one.tokens < long.tokens
    assert all(a.text == b.text for a, b in zip(found, whole, strict=True) if stop not in b.text)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("a\ndef b", ("\ndef ", "\nclass "), ("a", True)),
        ("a\nclass b\ndef c", ("\ndef ", "\nclass "), ("a", True)),
        ("a\ndefine", ("\ndef ",), ("a\ndefine", False)),
        ("xyz", ("yz", "xy"), ("", True)),
        ("xyz", (), ("xyz", False)),
    ],
)
def test_the_first_stop_string_counts(text: str, stop: tuple[str, ...], expected: tuple[str, bool]) -> None:
    assert cut(text, stop) == expected


def test_every_end_token_ends_a_text() -> None:
    assert end_tokens(TOKENIZER) == (1,)
    assert end_tokens(TOKENIZER, decisive())[:3] == (1, 40, 41)
    stopping = StoppingCriteria(TOKENIZER, GenerationSettings(9), (1, 40))
    prompt, ids = TOKENIZER("fox", add_special_tokens=False)["input_ids"], TOKENIZER(" hat")["input_ids"]
    assert stopping.finish(prompt, ids) is None
    assert stopping.finish(prompt, [*ids, 40]) == stopping.finish(prompt, [*ids, 1]) == (" hat", "eos")
    assert stopping.finish(prompt, [*ids] * 9) == (" hat" * 9, "length")


def test_a_space_at_the_beginning_of_a_text_is_kept() -> None:
    """Tokenizers in the manner of SentencePiece take a space from the first token that they decode."""
    words = ["<s>", "</s>", "<pad>", "▁", "▁▁▁", "▁return", "▁x", "\n"]
    made = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    steps = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    made.decoder = decoders.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    prompt, ids = [0, 6, 7], [4, 5, 6]
    assert tokenizer.decode(ids) == "   return x"
    assert StoppingCriteria(tokenizer, GenerationSettings(9), (1,)).decode(prompt, ids) == "    return x"


def test_characters_of_several_tokens_are_whole() -> None:
    plain = make_tokenizer("abc", size=270)
    ids = plain("é — ✓\nend", add_special_tokens=False)["input_ids"]
    stopping = StoppingCriteria(plain, GenerationSettings(99, stop=("✓\n",)), (1,))
    assert len(ids) > 12
    ends = [stopping.finish(ids[:2], ids[2 : place + 1]) for place in range(2, len(ids))]
    assert next(end for end in ends if end) == (" — ", "stop")


# What it goes on from


def test_an_interrupted_generation_goes_on_with_what_is_missing(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, facts = make_prompts(8), {"model": "a", **DRAWN.deciding()}
    expected = generate(model, TOKENIZER, prompts, DRAWN)

    def kill(done: int, total: int, tokens: int) -> None:
        if done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, TOKENIZER, prompts, DRAWN, 3, TextStore(tmp_path, facts), kill)
    # As if the machine had stopped in the middle of a line.
    with open(tmp_path / "generations.jsonl", "a") as handle:
        handle.write('{"prompt": 3, "sam')
    store = TextStore(tmp_path, facts)
    before = dict(store.results)
    assert 4 < len(before) < 16
    seen: list[int] = []
    found = generate(model, TOKENIZER, prompts, DRAWN, 16, store, lambda done, total, tokens: seen.append(total))
    assert found == expected and set(seen) == {16 - len(before)}
    assert all(store.results[key] is text for key, text in before.items())
    monkeypatch.setattr(PromptReader, "call", lambda *_, **__: pytest.fail("the model was asked again"))
    again = TextStore(tmp_path, facts)
    assert generate(model, TOKENIZER, prompts, DRAWN, "auto", again) == expected
    assert generate(model, TOKENIZER, prompts, GenerationSettings(12, 0.9, 0.8, seed=3), 1, again) == expected[::2]
    assert sum(text.seconds for text in again.results.values()) > 0


def test_a_store_of_other_settings_is_refused(tmp_path: Path) -> None:
    store = TextStore(tmp_path, {"model": "a", **DRAWN.deciding()})
    store.add({(0, 0): Generated("x\n", 3, "eos", 0.5)})
    assert TextStore(tmp_path, {"model": "a", **DRAWN.deciding()}).results == store.results
    with pytest.raises(UserError, match="was made with model a, this run has b; choose another --output"):
        TextStore(tmp_path, {"model": "b", **DRAWN.deciding()})
    other = GenerationSettings(12, temperature=0.9, top_p=0.8, seed=3, stop=("\n",))
    with pytest.raises(UserError, match=r"made with stop \[\], this run has \['\\n'\]"):
        TextStore(tmp_path, {"model": "a", **other.deciding()})
    assert TextStore(tmp_path, {"model": "b"}, overwrite=True).results == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "no prompt in line 2"),
        ('{"prompt": 0, "sample": 0, "text": 3, "tokens": 1, "ended": "eos", "seconds": 0}', "3 as text; need text"),
        ('{"prompt": 0, "sample": 0, "text": "", "tokens": Infinity, "ended": "eos", "seconds": 0}', "inf as tokens"),
        ('{"prompt": 0, "sample": 0, "text": "", "tokens": 1, "ended": "eos", "ended": "eos"}', "'ended' twice"),
        ("[" * 100_000, "nested deeper than 100 levels"),
        (
            '{"prompt": 0, "sample": 0, "text": "x", "tokens": 1, "ended": "somehow", "seconds": 0}',
            "'somehow' as ended; .* in line 2",
        ),
        ("[]", "line 2"),
        ("nonsense", "line 2"),
    ],
)
def test_a_damaged_store_is_refused(tmp_path: Path, line: str, message: str) -> None:
    TextStore(tmp_path, {"model": "a"}).add({})
    with open(tmp_path / "generations.jsonl", "a") as handle:
        handle.write(line + "\n")
    with pytest.raises(UserError, match=f"is damaged.*({message}).*--overwrite"):
        TextStore(tmp_path, {"model": "a"})


# What it refuses


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "found --max_new_tokens 0; need at least 1"),
        ({"samples": 0}, "found --samples 0; need at least 1"),
        ({"samples": 2}, "found --samples 2 with --temperature 0"),
        ({"temperature": -0.1}, "found --temperature -0.1; need a number of at least 0"),
        ({"temperature": float("nan")}, "found --temperature nan"),
        ({"temperature": float("inf")}, "found --temperature inf"),
        ({"top_p": 0.0}, "found --top_p 0.0; need a number above 0 and at most 1"),
        ({"top_p": 1.1}, "found --top_p 1.1"),
        ({"top_p": float("nan")}, "found --top_p nan"),
        ({"stop": ("a", "")}, r"found --stop \('a', ''\); need texts of at least one character"),
        ({"stop": "Question:"}, "found --stop 'Question:'"),
    ],
)
def test_bad_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GenerationSettings(**{"max_new_tokens": 5, **values})


def test_prompts_that_leave_no_room_are_counted(model: Any) -> None:
    prompts = make_prompts(6)
    prompts[2] = Prompt(prompts[2].prefix, "fox " * 300)
    with pytest.raises(
        UserError, match=r"found 1 of 6 prompts with more than 244 tokens, the longest \d+; need prompt"
    ):
        generate(model, TOKENIZER, prompts, GREEDY)
    with pytest.raises(UserError, match="found --max_new_tokens 256 and a context of 256; need room for a prompt"):
        generate(model, TOKENIZER, prompts[:1], GenerationSettings(256))


def test_a_prompt_without_tokens_is_refused() -> None:
    bare = make_tokenizer()
    bare.bos_token = None
    with pytest.raises(UserError, match="found 1 prompts without tokens, first number 2"):
        encode(bare, [Prompt("", "fox"), Prompt("", "")])
    assert encode(TOKENIZER, [Prompt("", "")])[0].ids == (0,)


@pytest.mark.parametrize("batch_size", [0, -1, "many", 2.5])
def test_bad_batch_sizes(model: Any, batch_size: Any) -> None:
    with pytest.raises(UserError, match="need a whole number of at least 1, or auto"):
        generate(model, TOKENIZER, make_prompts(2), GREEDY, batch_size)


@pytest.mark.realdata
@pytest.mark.slow
def test_a_really_trained_model(shared_data: Path, shared_models: Path) -> None:
    """Real problems behind a worked example, a real tokenizer, a trained model: the same texts as the plain way."""
    from sharelora.data.gsm8k import load_gsm8k
    from sharelora.evaluation.gsm8k import write_prompts
    from sharelora.models.load import load_base, load_tokenizer

    place = str(shared_models / "tiny-llama")
    model, tokenizer = load_base(place, bits=32), load_tokenizer(place)
    prompts = write_prompts(load_gsm8k("test", shared_data)[:3], 1)
    for settings in (
        GenerationSettings(12, stop=("\n\n",)),
        GenerationSettings(12, temperature=0.6, top_p=0.95, stop=("\nQuestion:", ". ")),
    ):
        expected = generate_one_by_one(model, tokenizer, prompts, settings)
        assert generate(model, tokenizer, prompts, settings) == expected
        assert len({text.text for text in expected}) > 1
