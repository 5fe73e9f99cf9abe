"""Which models can read beams as a tree, and the logits that it gives, whatever it throws out."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from sharelora.evaluation.beam import tree
from sharelora.evaluation.beam.tree import BeamTree, can_read_tree, read_rows
from sharelora.evaluation.key_value_cache import PromptReader

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "pad_token_id": 0}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
KINDS: list[tuple[str, dict[str, Any], bool]] = [
    ("gpt2", GPT2, True),
    ("gpt2", {**GPT2, "scale_attn_by_inverse_layer_idx": True}, True),
    ("llama", GROUPED, True),
    ("qwen3", GROUPED, True),
    # A window, or scores that are bounded, are not what a tree computes.
    ("mistral", {**GROUPED, "sliding_window": 8}, False),
    ("gemma2", GROUPED, False),
    # No positions are passed to it.
    ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 4}, False),
]


def make(kind: str, shape: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=40, bos_token_id=1, eos_token_id=1, **shape)
    return AutoModelForCausalLM.from_config(config).double().eval()


@pytest.mark.parametrize(("kind", "shape", "reads"), KINDS, ids=[f"{kind}{len(shape)}" for kind, shape, _ in KINDS])
def test_models_that_can_read_a_tree(kind: str, shape: dict[str, Any], reads: bool) -> None:
    model = make(kind, shape)
    before = model.config._attn_implementation
    assert can_read_tree(PromptReader(model), [5, 6, 7, 8]) == reads
    assert model.config._attn_implementation == before
    assert tree._tree.get() is None


def test_a_prefix_has_columns_of_its_own() -> None:
    model = get_peft_model(make("gpt2", GPT2), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert not can_read_tree(PromptReader(model.eval()), [5, 6, 7, 8])


@torch.no_grad()
@pytest.mark.parametrize("most_unseen", [0.0, 1.0])
def test_rows_that_come_and_go_have_the_logits_of_their_texts(
    most_unseen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_MOST_UNSEEN", most_unseen)
    model, rng = make("llama", GROUPED), random.Random(0)
    prompts = [[0, 0, 9], [0, 4, 5], [1, 2, 3]]
    mask = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 1]])
    read = model(input_ids=torch.tensor(prompts), attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    grown = BeamTree(read.past_key_values, mask, 3)
    # The text of each row, by prompt.
    rows = [(prompt, ids[3 - int(mask[prompt].sum()) :]) for prompt, ids in enumerate(prompts)]
    for step in range(8):
        # The second prompt ends early.
        parents = sorted(
            parent
            for prompt in {prompt for prompt, _ in rows} - ({1} if step > 3 else set())
            for parent in rng.choices([i for i, row in enumerate(rows) if row[0] == prompt], k=rng.randint(1, 3))
        )
        rows = [(rows[parent][0], [*rows[parent][1], rng.randrange(40)]) for parent in parents]
        left = sorted({prompt for prompt, _ in rows})
        owner = [left.index(prompt) for prompt, _ in rows]
        places = [owner[:index].count(one) for index, one in enumerate(owner)]
        grown.grow(torch.tensor(parents), torch.tensor(owner), torch.tensor(places))
        lengths = torch.tensor([len(ids) for _, ids in rows])
        found = read_rows(model, grown, torch.tensor([ids[-1] for _, ids in rows]), lengths - 1)
        for logits, (_, ids) in zip(found, rows, strict=True):
            assert torch.allclose(logits, model(input_ids=torch.tensor([ids])).logits[0, -1], atol=1e-9)
    # Room ran out before the end, if nothing else: what ended is gone.
    assert grown.prompts == 2
