"""Bottleneck adapters and prefixes: where they act, how many weights they have, and what they start as."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_encoders import SHAPES
from torch import Tensor, nn
from torch.nn import functional as F

from sharelora.support.errors import UserError
from sharelora.training.glue.baselines import KINDS, Bottleneck, insert_bottlenecks, insert_prefixes

# Their layers are built as BERT's.
LIKE_BERT = ("camembert", "deberta", "xlm-roberta")
IDS = torch.tensor([[0, 7, 8, 9, 2], [0, 5, 2, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def classifier(kind: str = "roberta", **settings: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, **{**SHAPES.get(kind, SHAPES["roberta"]), "vocab_size": 24, "pad_token_id": 1, **settings}
    )
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def logits(model: nn.Module, ids: Tensor = IDS, mask: Tensor = MASK) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


def shake(modules: list[Any]) -> None:
    for weight in (weight for module in modules for weight in module.parameters()):
        nn.init.normal_(weight, std=0.5)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", [*SHAPES, *LIKE_BERT])
def test_adapters_act_in_every_layer_of_every_architecture(kind: str, name: str) -> None:
    model = classifier(kind)
    before = logits(model)
    made = insert_bottlenecks(model, name, 4)
    assert len(made) == 2 * len(KINDS[name].spots)
    assert sum(weight.numel() for adapter in made for weight in adapter.parameters()) == len(made) * (
        2 * 4 * 32 + 4 + 32
    )
    # Near nothing at first; Parallel is exactly nothing.
    assert (logits(model) - before).abs().max() < (1e-6 if name == "parallel" else 1e-2)
    for adapter in made:
        again = copy.deepcopy(adapter.state_dict())
        shake([adapter])
        assert (logits(model) - before).abs().max() > 1e-3
        adapter.load_state_dict(again)


def layer_by_hand(layer: Any, hidden: Tensor, adapters: dict[str, Bottleneck]) -> Tensor:
    """A layer of BERT with adapters, written out."""
    attention = layer.attention
    heads = [
        part(hidden).view(1, -1, 4, 8).transpose(1, 2)
        for part in (attention.self.query, attention.self.key, attention.self.value)
    ]
    attended = attention.output.dense(F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(hidden.shape))
    if "attention" in adapters:
        attended = attended + adapters["attention"](attended)
    middle = attention.output.LayerNorm(attended + hidden)
    output = layer.output.dense(layer.intermediate(middle))
    if "feed_forward" in adapters:
        output = output + adapters["feed_forward"](output)
    if "beside_feed_forward" in adapters:
        output = output + adapters["beside_feed_forward"](middle)
    return layer.output.LayerNorm(output + middle)


@pytest.mark.parametrize("name", KINDS)
def test_adapters_compute_what_the_papers_say(name: str) -> None:
    model = classifier("roberta", num_hidden_layers=1)
    made = insert_bottlenecks(model, name, 4)
    shake(made)
    hidden = torch.randn(1, 6, 32)
    layer = model.roberta.encoder.layer[0]
    expected = layer_by_hand(layer, hidden, dict(zip(KINDS[name].spots, made, strict=True)))
    torch.testing.assert_close(layer(hidden), expected)


def test_a_bottleneck_is_its_formula() -> None:
    adapter = Bottleneck(8, 3, nn.SiLU, 4.0, zero=False)
    x = torch.randn(5, 8)
    inner = x @ adapter.down.weight.T + adapter.down.bias
    expected = 4 * ((inner * inner.sigmoid()) @ adapter.up.weight.T + adapter.up.bias)
    torch.testing.assert_close(adapter(x), expected)
    assert (
        adapter.down.weight.abs().max() <= 2e-2 and Bottleneck(8, 3, nn.ReLU, 1, zero=True).up.weight.abs().max() == 0
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["bert", "camembert", "electra", "roberta", "xlm-roberta"])
def test_a_prefix_is_attended_to_and_moves_no_position(kind: str, attention: str) -> None:
    model = classifier(kind, attn_implementation=attention)
    before = logits(model)
    made = insert_prefixes(model, 3)
    assert sum(weight.numel() for prefix in made for weight in prefix.parameters()) == 2 * 2 * 3 * 32
    # Keys that nothing matches: the text attends to itself alone, at the positions that it had.
    with torch.no_grad():
        for layer in model.base_model.encoder.layer:
            query = layer.attention.self.query
            query.weight.zero_()
            query.bias.fill_(1.0)
        plain = classifier(kind, attn_implementation=attention)
        plain.load_state_dict(model.state_dict(), strict=False)
        for prefix in made:
            prefix.keys.fill_(-1e4)
    torch.testing.assert_close(logits(model), logits(plain), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for prefix in made:
            prefix.keys.fill_(1e4)
            prefix.values.zero_()
    attended = logits(model)
    assert (attended - before).abs().max() > 1e-4 and torch.isfinite(attended).all()


def test_a_prefix_leaves_padding_out() -> None:
    model = classifier()
    shake(insert_prefixes(model, 3))
    alone = logits(model, IDS[1:, :3], MASK[1:, :3])
    torch.testing.assert_close(logits(model)[1:], alone, rtol=1e-4, atol=1e-5)


def test_the_longest_text_fits_behind_a_prefix() -> None:
    model = classifier()
    insert_prefixes(model, 20)
    ids = torch.full((1, 64), 5)
    assert torch.isfinite(logits(model, ids, torch.ones_like(ids))).all()


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_embd=32, n_head=4, n_layer=1, vocab_size=20)
    model = transformers.GPT2ForSequenceClassification(config)
    for insert in (lambda: insert_bottlenecks(model, "houlsby", 4), lambda: insert_prefixes(model, 3)):
        with pytest.raises(UserError, match=r"type 'gpt2'.*need one of .*roberta"):
            insert()
