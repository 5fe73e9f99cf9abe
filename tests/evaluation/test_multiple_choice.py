"""The engine answers exactly what reading each prompt whole and alone answers, and never cuts or guesses silently."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toy import LETTERS, make_items, make_model, make_tokenizer, make_tokenizer_of_parts

from sharelora import ShareLoraConfig
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.evaluation.multiple_choice import Choice, Scored, score
from sharelora.evaluation.reference import score_one_by_one
from sharelora.evaluation.tokens import Item, encode_items
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError


def assert_same(found: Scored, expected: Scored, tolerance: float = 1e-4) -> None:
    assert [choice.prediction for choice in found.choices] == [choice.prediction for choice in expected.choices]
    for one, other in zip(found.choices, expected.choices, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=tolerance)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "sliding"])
@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_equals_the_plain_way(kind: str, batch_size: int | str, share_prefix: bool) -> None:
    model, tokenizer, items = make_model(kind), make_tokenizer(), make_items()
    expected = score_one_by_one(model, tokenizer, items)
    found = score(model, tokenizer, items, batch_size, share_prefix)
    assert_same(found, expected)
    assert len({choice.prediction for choice in expected.choices}) >= 3, "all answers alike would prove nothing"
    assert found.whole == (0 if share_prefix else len(items))
    assert found.prompt_tokens == expected.tokens
    assert (found.tokens < 0.6 * expected.tokens) == share_prefix


ADAPTERS = [
    ("llama", LoraConfig(r=4, target_modules=["q_proj", "v_proj"])),
    ("llama", ShareLoraConfig(r=4, share="a", target_modules=["q_proj", "v_proj"])),
    ("gpt2", ShareLoraConfig(r=4, share="ab", target_modules=["c_attn"], fan_in_fan_out=True)),
]


@pytest.mark.parametrize("batch_size", [3, "auto"])
@pytest.mark.parametrize(("kind", "config"), ADAPTERS, ids=["lora", "share_a", "share_ab"])
def test_adapters_take_part(kind: str, config: LoraConfig, batch_size: int | str) -> None:
    model, tokenizer, items = make_model(kind), make_tokenizer(), make_items()
    plain = score(model, tokenizer, items)
    adapted = get_peft_model(model, copy.deepcopy(config))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.3)
    assert_same(score(adapted, tokenizer, items, batch_size), score_one_by_one(adapted, tokenizer, items))
    assert score(adapted, tokenizer, items).choices != plain.choices


def test_a_quantised_base(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from sharelora.models.load import load_base

    make_model().save_pretrained(tmp_path)
    model = load_base(str(tmp_path), bits=4, dtype="fp32")
    assert_same(
        score(model, make_tokenizer(), make_items(9), 4), score_one_by_one(model, make_tokenizer(), make_items(9))
    )


def test_bf16_answers_alike_but_for_ties() -> None:
    """Rounding may decide between letters that are as likely: such questions are few, and nothing else differs."""
    model, tokenizer, items = make_model().bfloat16(), make_tokenizer(), make_items(60)
    found, expected = score(model, tokenizer, items, 4), score_one_by_one(model, tokenizer, items)
    changed = 0
    for one, other in zip(found.choices, expected.choices, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=0.15)
        if one.prediction != other.prediction:
            changed += 1
            assert other.scores[one.prediction] == pytest.approx(max(other.scores), abs=0.15)
    assert changed <= 3


def test_a_tie_is_seen() -> None:
    assert Choice(0, (-1.0, -2.0, -1.0)).tied and not Choice(0, (-1.0, -2.0, -2.0)).tied


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_logits_are_computed_for_one_position_of_each_prompt(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, items = make_model(kind), make_tokenizer(), make_items()
    seen: list[torch.Size] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    score(model, tokenizer, items, 4)
    # Rows of two dimensions: a position of each prompt, and none of a shared beginning.
    assert len(seen) > 6 and {len(shape) for shape in seen} == {2} and {shape[0] for shape in seen} >= {0, 4}
    assert max(shape[0] for shape in seen) == 4
    assert len(model.lm_head._forward_pre_hooks) == 0, "the model is left as it was"


@pytest.mark.parametrize("count", [12, 60])
def test_what_is_held_depends_on_the_batch_alone(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more rows than the batch has, and the cache of one subject only, however many questions there are."""
    model, tokenizer, items = make_model(), make_tokenizer(), make_items(count, subjects=3)
    rows: list[int] = []
    caches: list[Any] = []
    reads, begins = PromptReader.next_logits, PromptReader.prefix

    def reading(self: Any, batch: Any, *rest: Any) -> Any:
        rows.append(len(batch))
        return reads(self, batch, *rest)

    def beginning(self: Any, ids: Any) -> Any:
        assert not [held for held in caches if held() is not None], "the cache before it is still held"
        made = begins(self, ids)
        caches.append(weakref.ref(made))
        return made

    monkeypatch.setattr(PromptReader, "can_share", lambda *_: True)
    monkeypatch.setattr(PromptReader, "next_logits", reading)
    monkeypatch.setattr(PromptReader, "prefix", beginning)
    score(model, tokenizer, items, 4)
    assert len(caches) == 3 and max(rows) == 4 and sum(rows) == count


def test_the_mode_is_left_as_it_was() -> None:
    model = make_model()
    for training in (True, False):
        model.train(training)
        model.lm_head.train(not training)
        before = [module.training for module in model.modules()], torch.get_rng_state()
        score(model, make_tokenizer(), make_items(3))
        assert [module.training for module in model.modules()] == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])


def test_a_model_that_ignores_its_cache_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, items = make_model(), make_tokenizer(), make_items()
    expected = score_one_by_one(model, tokenizer, items)
    original = type(model).forward

    def forgetful(
        self: Any, input_ids: Any = None, attention_mask: Any = None, past_key_values: Any = None, **rest: Any
    ) -> Any:
        if past_key_values is not None:
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        return original(self, input_ids=input_ids, attention_mask=attention_mask, **rest)

    monkeypatch.setattr(type(model), "forward", forgetful)
    found = score(model, tokenizer, items)
    assert_same(found, expected)
    assert found.whole == len(items)


def test_a_model_without_a_cache_reads_prompts_whole() -> None:
    class Plain(torch.nn.Module):
        """Nothing but token ids in and logits out."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config, self.dtype = inner, inner.config, inner.dtype

        def get_input_embeddings(self) -> Any:
            return self.inner.get_input_embeddings()

        def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None) -> Any:
            return self.inner(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)

    model, tokenizer, items = make_model(), make_tokenizer(), make_items(9)
    found = score(Plain(model), tokenizer, items, 4)
    assert_same(found, score_one_by_one(model, tokenizer, items))
    assert found.whole == 9


def test_a_prompt_that_merges_with_its_prefix_is_read_whole() -> None:
    tokenizer = make_tokenizer("foxes foxes foxes Answer: A B C D")
    items = [Item("the fox", "es\nAnswer:", LETTERS), *(Item("the fox", f" {n}\nAnswer:", LETTERS) for n in range(3))]
    encoded = encode_items(tokenizer, items)
    assert [bool(item.start) for item in encoded] == [False, True, True, True]
    model = make_model()
    found = score(model, tokenizer, items)
    assert_same(found, score_one_by_one(model, tokenizer, items))
    assert found.whole == 1


def test_the_letter_is_the_token_that_follows() -> None:
    spaced, split = make_tokenizer(), make_tokenizer("foxes")
    (encoded,) = encode_items(spaced, [Item("", "What?\nAnswer:", LETTERS)])
    assert spaced.convert_ids_to_tokens(list(encoded.answers)) == ["ĠA", "ĠB", "ĠC", "ĠD"]
    # Where space and letter are two tokens, the space belongs to the prompt and the letters stay comparable.
    (encoded,) = encode_items(split, [Item("", "What?\nAnswer:", LETTERS)])
    assert split.convert_ids_to_tokens(list(encoded.answers)) == ["A", "B", "C", "D"]
    assert split.convert_ids_to_tokens(encoded.ids[-1]) == "Ġ"


def test_a_space_that_joins_the_prompt_moves_the_prompt_end() -> None:
    joining = make_tokenizer_of_parts({"Answer": 3, ":": 4, ": ": 5, "A": 6, "B": 7})
    (encoded,) = encode_items(joining, [Item("", "Answer:", (" A", " B"))])
    assert joining.convert_ids_to_tokens(list(encoded.ids)) == ["<s>", "Answer", ": "]
    assert joining.convert_ids_to_tokens(list(encoded.answers)) == ["A", "B"]


def test_answers_of_several_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="answers of other than one token"):
        encode_items(make_tokenizer(), [Item("", "What?\nAnswer:", (" A", " fox and wolf"))])


def test_the_start_token_is_a_choice() -> None:
    item = Item("", "What?\nAnswer:", LETTERS)
    with_it, without = (encode_items(make_tokenizer(), [item], begin)[0].ids for begin in (None, ()))
    assert with_it == (0, *without)


def test_prompts_that_do_not_fit_are_refused() -> None:
    items = make_items(6, subjects=2)
    items[3] = dataclasses.replace(items[3], text="fox " * 300 + items[3].text)
    message = r"1 of 6 prompts with more than 256 tokens.*\(subject_1 1\); need prompts that fit"
    with pytest.raises(UserError, match=message):
        score(make_model(), make_tokenizer(), items)
    with pytest.raises(UserError, match="6 of 6 prompts with more than 20 tokens"):
        score(make_model(), make_tokenizer(), make_items(6, subjects=2), limit=20)


@pytest.mark.parametrize("batch_size", [0, -1, "many", 2.5])
def test_bad_batch_sizes(batch_size: Any) -> None:
    with pytest.raises(UserError, match="need a whole number of at least 1, or auto"):
        score(make_model(), make_tokenizer(), make_items(2), batch_size)


def test_the_batch_is_halved_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, items = make_model(), make_tokenizer(), make_items()
    expected = score_one_by_one(model, tokenizer, items)
    sizes: list[int] = []
    original = PromptReader.next_logits

    def limited(self: Any, rows: Any, *rest: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, rows, *rest)

    monkeypatch.setattr(PromptReader, "next_logits", limited)
    found = score(model, tokenizer, items, "auto")
    assert_same(found, expected)
    assert found.batch_size == 2 and max(sizes) > 4


def test_too_little_memory_for_one_prompt_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Any, rows: Any, *rest: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = make_model()
    items = make_items(2, shots=0)
    monkeypatch.setattr(PromptReader, "can_share", lambda *_: True)
    monkeypatch.setattr(PromptReader, "next_logits", never)
    with pytest.raises(UserError, match="single prompt"):
        score(model, make_tokenizer(), items)


def test_too_little_memory_for_the_examples_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Any, *_: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PromptReader, "can_share", lambda *_: True)
    monkeypatch.setattr(PromptReader, "call", never)
    with pytest.raises(UserError, match="single prompt"):
        score(make_model(), make_tokenizer(), make_items(4))


def test_other_failures_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, rows: Any, *rest: Any) -> Any:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(PromptReader, "can_share", lambda *_: True)
    monkeypatch.setattr(PromptReader, "next_logits", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        score(make_model(), make_tokenizer(), make_items(2))


def test_progress_and_nothing_to_do() -> None:
    seen: list[tuple[int, int, int]] = []
    found = score(make_model(), make_tokenizer(), make_items(7), 3, listener=lambda *values: seen.append(values))
    assert seen[-1] == (7, 7, found.tokens) and seen == sorted(seen) and len(seen) > 1
    assert score(make_model(), make_tokenizer(), []) == Scored((), 0, 0, 0, 0)


def test_progress_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    monkeypatch.setattr("sharelora.reporting.progress.time.monotonic", lambda: now[0])
    tell = Progress("Test", every=5)
    with caplog.at_level("INFO", logger="sharelora"):
        for done in range(1, 13):
            now[0] += 1
            tell(done, 30, 100 * done)
    assert caplog.messages == ["Test 5/30  100 tokens/s  0:00:25 left", "Test 10/30  100 tokens/s  0:00:20 left"]


def test_progress_is_told_before_anything_is_finished(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr("sharelora.reporting.progress.time.monotonic", lambda: now[0])
    tell, now[0] = Progress("Test", every=5, unit="programs"), 10.0
    with caplog.at_level("INFO", logger="sharelora"):
        tell(0, 30, 50)
    assert caplog.messages == ["Test 0/30  5 programs/s"]
