"""Layers that read the same input compute their projections together; nothing else may change by that."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from toy_models import QKV, adapted, bank, gradients, language_batch, llama, shake

from sharelora.memory.activations import Shape as TransformerShape
from sharelora.memory.activations import Workload, adapter_layer
from sharelora.tuner.kernels import reference
from sharelora.tuner.kernels.fused import keep_mask
from sharelora.tuner.layer import ShareLayer, Siblings

MODES: list[dict[str, Any]] = [
    {"share": "none"},
    {"share": "a"},
    {"share": "a", "share_across": "modules"},
    {"share": "ab", "share_across": "both"},
]


class Attention(nn.Module):
    """Three maps, of inputs that may be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, n) for n in (16, 8, 8))

    def forward(self, q: Tensor, k: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        k = q if k is None else k
        v = k if v is None else v
        return torch.cat([self.q_proj(q), self.k_proj(k), self.v_proj(v)], -1)


class Model(nn.Module):
    """Attention in a place where paths look like those of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.ModuleDict({"attn": Attention()}) for _ in range(2))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.layers[0]["attn"](*inputs) + self.layers[1]["attn"](*inputs)


def model(**settings: Any) -> nn.Module:
    return shake(adapted(Model(), **{"share": "a", "target_modules": QKV, **settings}))


def members(of: nn.Module) -> list[ShareLayer]:
    return [module for module in of.modules() if isinstance(module, ShareLayer)]


def apart(of: nn.Module) -> nn.Module:
    """The same model, its layers not knowing each other."""
    for layer in members(of):
        layer.siblings = None
    return of


def in_flight(of: nn.Module) -> int:
    return sum(len(group._pending) for group in {id(m.siblings): m.siblings for m in members(of)}.values() if group)


def result(of: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """Output and gradients, those of the inputs among them."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    of.zero_grad()
    y = of(*leaves)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    found = {name: p.grad.clone() for name, p in of.named_parameters() if p.requires_grad}
    return found | {"y": y.detach()} | {f"x{i}": x.grad for i, x in enumerate(leaves)}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_q_k_v_know_each_other_within_a_layer_only() -> None:
    groups = [layer.siblings for layer in members(model())]
    assert all(isinstance(group, Siblings) and len(group.members) == 3 for group in groups)
    assert groups[0] is groups[1] is groups[2] is not groups[3]
    mlp = members(adapted(llama(), target_modules="all-linear").base_model.model.model.layers[0])
    assert [len(layer.siblings.members) if layer.siblings else 1 for layer in mlp] == [3, 3, 3, 1, 2, 2, 1]


@pytest.mark.parametrize("settings", MODES, ids=str)
@pytest.mark.parametrize("same", [0, 1, 2])
def test_together_or_apart_is_the_same(settings: dict[str, Any], same: int) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(2, 5, 16) for _ in range(1 + same)]
    assert_same(result(model(**settings), *inputs), result(apart(model(**settings)), *inputs))


def test_one_gemm_and_one_mask_serve_all() -> None:
    together = model(lora_dropout=0.5, share_dropout_mask=True, share_across="modules").train()
    layer = together.base_model.model.layers[0]["attn"]
    x = torch.randn(3, 16)
    projections = [m.siblings.project(x, x, "default", m) for m in (layer.q_proj, layer.k_proj, layer.v_proj)]
    assert torch.equal(projections[0], projections[1]) and torch.equal(projections[1], projections[2])
    assert projections[0].grad_fn is projections[1].grad_fn and in_flight(together) == 0
    again = layer.q_proj.siblings.project(x, x, "default", layer.q_proj)
    assert not torch.equal(again, projections[0])


def seen_masks(adapter: Any) -> list[Tensor]:
    """Which numbers of their input q, k and v of a layer keep, each of 16 numbers in a row of its own."""
    layer, x = adapter.base_model.model.layers[0]["attn"], torch.eye(16)
    ys = [member(x) - member.base_layer(x) for member in members(layer)]
    return [y.abs().sum(1) > 0 for y in ys]


@pytest.mark.parametrize("shared", [False, True])
def test_each_module_draws_its_own_mask_unless_told_otherwise(shared: bool) -> None:
    torch.manual_seed(0)
    q, k, v = seen_masks(model(lora_dropout=0.5, share_dropout_mask=shared).train())
    assert 0 < q.sum() < 16
    assert (torch.equal(q, k) and torch.equal(k, v)) is shared
    assert torch.equal(q, k) is shared


def test_own_masks_are_independent() -> None:
    adapter = model(lora_dropout=0.25).train()
    torch.manual_seed(0)
    masks = torch.stack([torch.stack(seen_masks(adapter)) for _ in range(300)]).double()  # (300, q k v, D_in)
    flat = masks.permute(1, 0, 2).flatten(1)
    # 4,800 draws: the standard error of a rate is 0.006, that of a correlation 0.014.
    torch.testing.assert_close(flat.mean(1), torch.full((3,), 0.75, dtype=torch.double), rtol=0, atol=0.025)
    correlations = torch.corrcoef(flat)[[0, 0, 1], [1, 2, 2]]
    assert correlations.abs().max() < 0.06


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped_siblings_equal_the_formula_with_their_masks(
    shared: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = model(lora_dropout=0.5, share_dropout_mask=shared).train().to(dtype)
    masks: list[Tensor] = []

    def recorded(x: Tensor, p: float) -> Tensor:
        masks.append(keep_mask(x, p))
        return masks[-1]

    monkeypatch.setattr("sharelora.tuner.layer.keep_mask", recorded)
    layer = members(adapter.base_model.model.layers[0]["attn"])
    x = torch.randn(7, 16, dtype=dtype, requires_grad=True)
    leaves = [x, *dict.fromkeys(p for p in adapter.parameters() if p.requires_grad)]
    ys = [member(x) for member in layer]
    weights = [torch.randn_like(y) for y in ys]
    found = torch.autograd.grad(
        sum((y * w).sum() for y, w in zip(ys, weights, strict=True)), leaves, materialize_grads=True
    )
    assert len(masks) == (1 if shared else 3)
    exact = [
        reference.lora_linear(
            x, member.base_layer.weight, member.base_layer.bias, member.lora_A["default"].weight.to(dtype),
            member.lora_B["default"].weight.to(dtype), member.scaling["default"], mask, 0.5,
        )
        for member, mask in zip(layer, masks * 3 if shared else masks, strict=True)
    ]  # fmt: skip
    expected = torch.autograd.grad(
        sum((y * w).sum() for y, w in zip(exact, weights, strict=True)), leaves, materialize_grads=True
    )
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 0.05, "atol": 0.1}
    for y, other in zip((*ys, *found), (*exact, *expected), strict=True):
        torch.testing.assert_close(y, other, **tolerance)


def test_the_mean_and_the_variance_of_an_output_are_those_of_peft() -> None:
    settings = {"r": 4, "target_modules": QKV, "lora_dropout": 0.25}
    ours = model(share="none", lora_dropout=0.25).train()
    theirs = get_peft_model(Model(), LoraConfig(**settings)).train()
    shake(theirs)
    same = zip(members(ours), [m for m in theirs.modules() if isinstance(m, PeftLinear)], strict=True)
    with torch.no_grad():
        for one, other in same:
            for side in ("lora_A", "lora_B"):
                getattr(other, side)["default"].weight.copy_(getattr(one, side)["default"].weight)
    x = torch.randn(1, 16).expand(4000, 16)  # each row is a draw
    torch.manual_seed(0)
    found, expected = (m.base_model.model.layers[0]["attn"](x).detach().double() for m in (ours, theirs))
    spread = expected.std(0)
    assert ((found.mean(0) - expected.mean(0)).abs() < 5 * spread * (2 / 4000) ** 0.5).all()
    # Siblings too: an entry of the correlation has a standard error of at most (2 / 4000) ** 0.5 = 0.022.
    torch.testing.assert_close(torch.corrcoef(found.T), torch.corrcoef(expected.T), rtol=0, atol=0.12)
    torch.testing.assert_close(found.std(0) / spread, torch.ones(32).double(), rtol=0, atol=0.08)


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_is_dropped_outside_of_training(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.tuner.layer.keep_mask", lambda x, p: pytest.fail("drew a mask"))
    x = torch.randn(5, 16)
    dropping, plain = model(lora_dropout=0.5, share_dropout_mask=shared).eval(), model().eval()
    assert_same(result(dropping, x), result(plain, x))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_compiled_modules_draw_their_own_masks(shared: bool) -> None:
    torch.compiler.reset()
    layer = model(lora_dropout=0.5, share_dropout_mask=shared).train().base_model.model.layers[0]["attn"]
    compiled, x = torch.compile(layer, backend="eager"), torch.eye(16)
    torch.manual_seed(0)
    y = compiled(x) - torch.cat([member.base_layer(x) for member in members(layer)], -1)
    q, k, v = (part.abs().sum(1) > 0 for part in y.detach().split((16, 8, 8), -1))
    # The compiler sees one module at a time, with the flag too.
    assert 0 < q.sum() < 16 and not torch.equal(q, k) and not torch.equal(k, v)


def test_dropout_scales_as_that_of_torch() -> None:
    together = model(lora_dropout=0.25).train()
    layer = together.base_model.model.layers[0]["attn"].k_proj
    x = torch.ones(4000, 16)
    change = (layer(x) - layer.base_layer(x)).mean(0)
    torch.testing.assert_close(change, (layer.eval()(x) - layer.base_layer(x)).mean(0), rtol=0.1, atol=0.02)


def test_changed_in_place_the_input_counts_as_new() -> None:
    layer = model().base_model.model.layers[0]["attn"]
    x = torch.randn(3, 16)
    with torch.no_grad():
        layer.q_proj(x)
        x.mul_(2)
        found = layer.k_proj(x)
    torch.testing.assert_close(found, apart(model()).base_model.model.layers[0]["attn"].k_proj(x))


def test_changed_weights_are_used_at_once() -> None:
    adapter = model()
    layer = adapter.base_model.model.layers[0]["attn"]
    x = torch.randn(3, 16)
    layer.q_proj(x)
    with torch.no_grad():
        for value in bank(adapter).values():
            value.mul_(3)
    found = layer.k_proj(x)
    torch.testing.assert_close(found, apart(adapter).base_model.model.layers[0]["attn"].k_proj(x))


def test_some_members_called_again_and_again() -> None:
    """Only q and k are called, with the very same tensor in each step; v's projection is never fetched."""
    adapter, other = model(), apart(model())
    x = torch.randn(3, 16)
    losses = []
    for trained in (adapter, other):
        optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
        layer = trained.base_model.model.layers[0]["attn"]
        for _ in range(3):
            loss = layer.q_proj(x).square().mean() + layer.k_proj(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:3] == pytest.approx(losses[3:], rel=1e-5)


def test_a_look_without_gradients_does_not_stop_them() -> None:
    adapter = model()
    layer = adapter.base_model.model.layers[0]["attn"]
    x = torch.randn(3, 16)
    with torch.no_grad():
        layer.q_proj(x)
    layer.k_proj(x).sum().backward()
    assert bank(adapter)["lora_A/attn/k_proj/*/4x16"].grad.abs().max() > 0


def test_replicas_of_data_parallel_keep_to_themselves() -> None:
    layer = model().base_model.model.layers[0]["attn"].q_proj
    replica = layer._replicate_for_data_parallel()
    assert replica.siblings is None and layer.siblings is not None
    assert replica.lora_A["default"].weight is layer.lora_A["default"].weight


def test_siblings_in_different_precisions() -> None:
    layer = model().base_model.model.layers[0]["attn"]
    x = torch.randn(3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        layer.q_proj(x)
    torch.testing.assert_close(layer.k_proj(x), apart(model()).base_model.model.layers[0]["attn"].k_proj(x))


@pytest.mark.parametrize("settings", MODES, ids=str)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_siblings(settings: dict[str, Any], dropout: float, shared: bool, reentrant: bool) -> None:
    """The recomputation gets the very tensor that the forward got."""
    adapter = model(lora_dropout=dropout, share_dropout_mask=shared, **settings).train()
    x = torch.randn(2, 5, 16)
    torch.manual_seed(4)
    expected = result(adapter, x)

    def checkpointed(*inputs: Tensor) -> Tensor:
        return checkpoint(adapter, *inputs, use_reentrant=reentrant)

    leaf = x.clone().requires_grad_()
    for _ in range(2):
        adapter.zero_grad()
        leaf.grad = None
        torch.manual_seed(4)
        y = checkpointed(leaf)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        found = {name: p.grad for name, p in adapter.named_parameters() if p.requires_grad}
        assert_same(found | {"y": y.detach(), "x0": leaf.grad}, expected)
        assert in_flight(adapter) == 0


def test_nothing_outlives_a_step() -> None:
    adapter = shake(adapted(llama(), share="a", target_modules="all-linear"))
    alive = []
    hooks = [
        m.register_forward_hook(lambda _m, inputs, y: alive.extend(map(weakref.ref, (*inputs, y))))
        for m in members(adapter)
    ]
    gradients(adapter, language_batch())
    for hook in hooks:
        hook.remove()
    gc.collect()
    assert len(alive) == 2 * 21 and not [ref for ref in alive if ref() is not None]
    assert in_flight(adapter) == 0


def test_two_adapters_of_different_modules_keep_apart() -> None:
    from sharelora import ShareLoraConfig

    adapter = model(target_modules=["q_proj", "k_proj"])
    adapter.add_adapter("second", ShareLoraConfig(r=3, share="ab", target_modules=["k_proj", "v_proj"]))
    shake(adapter)
    x = torch.randn(2, 5, 16)
    for name in ("second", "default", "second"):
        adapter.base_model.set_adapter(name)
        found = result(adapter, x)
        assert in_flight(adapter) == 0
        groups = [layer.siblings for layer in members(adapter)]
        expected = result(apart(adapter), x)
        for layer, group in zip(members(adapter), groups, strict=True):
            layer.siblings = group
        assert_same(found, expected)


def test_a_hook_on_the_base_layer_is_called() -> None:
    adapter = model()
    seen = []
    layer = adapter.base_model.model.layers[1]["attn"].k_proj
    plain = layer(torch.ones(2, 16))
    handle = layer.base_layer.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(layer(torch.ones(2, 16)), plain)
    assert seen == [1]
    handle.remove()
    layer.base_layer.forward = lambda x: torch.zeros(2, 8)
    torch.testing.assert_close(
        layer(torch.ones(2, 16)),
        plain - nn.functional.linear(torch.ones(2, 16), layer.base_layer.weight, layer.base_layer.bias),
    )


def rwkv() -> tuple[nn.Module, dict[str, Any]]:
    """The value of its channel mixing reads what its key made, four times as wide."""
    config = transformers.RwkvConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2, bos_token_id=0, eos_token_id=1)
    return transformers.RwkvForCausalLM(config), {"input_ids": torch.tensor([[5, 6, 7, 8]]), "use_cache": False}


def trocr() -> tuple[nn.Module, dict[str, Any]]:
    config = transformers.TrOCRConfig(
        vocab_size=48, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64,
        cross_attention_hidden_size=48, dropout=0.0,
    )  # fmt: skip
    return transformers.TrOCRForCausalLM(config), {"input_ids": torch.tensor([[5, 6, 7]]), **encoded()}


def qformer() -> tuple[nn.Module, dict[str, Any]]:
    config = transformers.Blip2QFormerConfig(
        vocab_size=48, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        encoder_hidden_size=48, cross_attention_frequency=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.Blip2QFormerModel(config), {"query_embeds": torch.randn(1, 3, 32), **encoded()}


def blip() -> tuple[nn.Module, dict[str, Any]]:
    config = transformers.BlipTextConfig(
        vocab_size=48, hidden_size=32, encoder_hidden_size=48, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, is_decoder=True, bos_token_id=0, eos_token_id=1, sep_token_id=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BlipTextLMHeadModel(config), {"input_ids": torch.tensor([[5, 6, 7]]), **encoded()}


def encoded() -> dict[str, Tensor]:
    """What cross-attention reads, of another width than the decoder."""
    return {"encoder_hidden_states": torch.randn(1, 6, 48)}


@pytest.mark.parametrize("family", [rwkv, trocr, qformer, blip])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_relatives_of_different_widths_compute_what_lora_does(family: Any) -> None:
    """Output and gradients of B; A is zero, so that both begin with the same matrices."""
    found = []
    for ours in (True, False):
        torch.manual_seed(0)
        base, inputs = family()
        names = {path.rpartition(".")[2] for path, m in base.named_modules() if isinstance(m, nn.Linear)}
        targets = sorted(names & {"query", "key", "value", "q_proj", "k_proj", "v_proj"})
        if ours:
            model = adapted(base, share="none", target_modules=targets)
        else:
            model = get_peft_model(base, LoraConfig(r=4, target_modules=targets)).eval()
        for path, layer in model.base_model.model.named_modules():
            if "default" in getattr(layer, "lora_A", ()):
                torch.manual_seed(len(path))
                for side in (layer.lora_A, layer.lora_B):
                    side["default"].weight.data.normal_()
        y = model.base_model.model(**inputs)[0]
        y.square().mean().backward()
        layers = [m for m in model.modules() if hasattr(m, "lora_A")]
        weights = [side["default"].weight for layer in layers for side in (layer.lora_A, layer.lora_B)]
        assert len(weights) > 3 and all(w.grad is not None for w in weights[:2])
        found.append({"y": y.detach()} | {str(i): w.grad for i, w in enumerate(weights) if w.grad is not None})
    assert_same(*found)


def test_the_estimate_of_memory_groups_as_the_layers_do() -> None:
    """k and v of TrOCR's cross-attention keep one input of width 48, its q another of width 32."""
    base, _ = trocr()
    model = adapted(base, share="none", target_modules=[f"encoder_attn.{name}" for name in QKV])
    layer = model.base_model.model.get_submodule("model.decoder.layers.0.encoder_attn")
    assert layer.q_proj.siblings is None and layer.k_proj.siblings is layer.v_proj.siblings is not None
    entries = [entry for entry in model.base_model.plans["default"].entries if entry.site.layer == 0]
    shape = TransformerShape(2, 32, 4, 32, 32, 64, 48, False, 1, 0.0, 0.0)
    kept = adapter_layer(entries, shape, Workload(batch=1, tokens=10, bytes=4))
    # The inputs, three A x of rank 4, and the stacked As of k and v.
    assert kept == 4 * (10 * (32 + 48) + 10 * 3 * 4 + 2 * 4 * 48)


def test_a_backward_pass_between_two_siblings() -> None:
    """The graph of q's call is gone when k is called with the same tensor."""
    x = torch.randn(3, 16)
    found = []
    for trained in (model(), apart(model())):
        layer = trained.base_model.model.layers[0]["attn"]
        for member in (layer.q_proj, layer.k_proj):
            member(x).square().sum().backward()
        found.append({name: p.grad for name, p in trained.named_parameters() if p.grad is not None})
    assert_same(*found)


@pytest.mark.parametrize("order", [("q_proj", "k_proj", "v_proj"), ("v_proj", "q_proj", "k_proj")])
def test_siblings_in_different_checkpointed_regions(order: tuple[str, ...]) -> None:
    found = []
    for trained in (model(), apart(model())):
        layer = trained.base_model.model.layers[0]["attn"]
        x = torch.ones(2, 16).requires_grad_()
        first, *others = (layer.get_submodule(name) for name in order)
        y = first(x)
        for other in others:
            y = torch.cat([y, checkpoint(other, x, use_reentrant=False)], -1)
        y.square().sum().backward()
        found.append({name: p.grad for name, p in trained.named_parameters() if p.grad is not None} | {"x": x.grad})
    assert_same(*found)


def test_without_records_of_writes_nothing_is_taken_from_a_sibling() -> None:
    with torch.inference_mode():
        layer = model().base_model.model.layers[0]["attn"]
        x = torch.randn(3, 16)
        layer.q_proj(x)
        x.mul_(2)
        found = layer.k_proj(x)
        torch.testing.assert_close(found, apart(model()).base_model.model.layers[0]["attn"].k_proj(x))


def test_an_input_that_begins_to_need_a_gradient_gets_one() -> None:
    layer = model().base_model.model.layers[0]["attn"]
    x = torch.randn(3, 16)
    layer.q_proj(x)
    x.requires_grad_()
    layer.k_proj(x).sum().backward()
    expected = torch.ones(3, 8) @ layer.k_proj.base_layer.weight
    view = layer.k_proj.lora_B["default"].weight @ layer.k_proj.lora_A["default"].weight
    torch.testing.assert_close(x.grad, expected + layer.k_proj.scaling["default"] * (torch.ones(3, 8) @ view))


@pytest.mark.parametrize("shared", [False, True])
def test_members_may_differ_in_precision_in_dropout_and_in_mode(shared: bool) -> None:
    together, other = (model(lora_dropout=0.5, share_dropout_mask=shared).train() for _ in range(2))
    x = torch.randn(3, 16)
    ys = []
    for trained in (together, apart(other)):
        layer = trained.base_model.model.layers[0]["attn"]
        layer.k_proj.base_layer.to(torch.bfloat16)
        layer.v_proj.eval()
        layer.q_proj.lora_dropout["default"].p = 0.0
        ys.append([layer.q_proj(x), layer.v_proj(x)])
        ys[-1].append(layer.k_proj(x)[:, :0])
    for y, expected in zip(*ys, strict=True):
        torch.testing.assert_close(y, expected)
