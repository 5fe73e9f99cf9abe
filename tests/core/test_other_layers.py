"""Adapters of embeddings, convolutions and attention: PEFT's LoRA without sharing, and tied LoRA with it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from other_layers import NETS, Attentive, Net, bank, built, copy_matrices, ids, ours, places, shaken, theirs
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.optimization import Adafactor

from sharelora import UserError, find_sites
from sharelora.memory.estimator import optimizer_bytes
from sharelora.plan.budget import RULES, Budget, fits, render
from sharelora.plan.plan import SharingPlan

# PEFT says so itself.
pytestmark = pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")

DORA = [net for net in NETS if net != "attention"]
MERGED = [net for net in NETS if net != "groups"]


def gradients(model: PeftModel) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    outputs = model(ids())
    outputs.square().sum().backward()
    return outputs.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(mine: PeftModel, other: PeftModel) -> None:
    """Same matrices in, same outputs out, and the gradients of PEFT's copies add up to that of the one matrix."""
    expected, _ = gradients(other)
    found, grads = gradients(mine)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    sums: dict[str, Any] = defaultdict(float)
    for name, matrix in places(other, mine):
        sums[name] = sums[name] + matrix.grad
    assert {f"base_model.lora_bank.default.{name}" for name in sums} == {n for n in grads if "magnitude" not in n}
    for name, total in sums.items():
        torch.testing.assert_close(bank(mine)[name].grad, total, rtol=1e-4, atol=1e-6)
        assert bank(mine)[name].grad.any(), name


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"init_lora_weights": "gaussian"}], ids=str)
@pytest.mark.parametrize("net", NETS)
def test_without_sharing_it_is_peft_lora(net: str, settings: dict[str, Any]) -> None:
    mine, other = ours(net, **settings), theirs(net, **settings)
    for name, matrix in places(other, mine):
        torch.testing.assert_close(bank(mine)[name].data, matrix.data, rtol=0, atol=0)
    assert mine.get_nb_trainable_parameters() == other.get_nb_trainable_parameters()
    compare(shaken(mine), copy_matrices(other, mine))


@pytest.mark.parametrize("share", ["a", "b", "ab"])
@pytest.mark.parametrize("net", NETS)
def test_shared_it_is_peft_lora_with_tied_matrices(net: str, share: str) -> None:
    mine = shaken(ours(net, share=share))
    plan = mine.base_model.plans["default"]
    assert plan.shares and plan.num_parameters < plan.num_unshared
    assert mine.get_nb_trainable_parameters()[0] == plan.num_parameters
    assert {name: tuple(matrix.shape) for name, matrix in bank(mine).items()} == dict(plan.matrices)
    other = theirs(net)
    assert other.get_nb_trainable_parameters()[0] == plan.num_unshared
    compare(mine, copy_matrices(other, mine))


@pytest.mark.parametrize("share", ["none", "ab"])
@pytest.mark.parametrize("net", DORA)
def test_dora_is_that_of_peft(net: str, share: str) -> None:
    mine, other = shaken(ours(net, share=share, use_dora=True)), theirs(net, use_dora=True)
    compare(mine, copy_matrices(other, mine))


@pytest.mark.parametrize("net", DORA)
def test_dora_starts_at_the_norm_of_the_base(net: str) -> None:
    mine, other = ours(net, use_dora=True, init_lora_weights=False), theirs(net, use_dora=True, init_lora_weights=False)
    found = {name: value for name, value in mine.named_parameters() if "magnitude" in name}
    for name, value in other.named_parameters():
        if "magnitude" in name:
            torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("net", NETS)
def test_dropout_and_autocast_are_those_of_peft(net: str) -> None:
    mine = shaken(ours(net, share="a", lora_dropout=0.4))
    other = copy_matrices(theirs(net, lora_dropout=0.4), mine)
    results = []
    for model in (mine.train(), other.train()):
        torch.manual_seed(11)
        with torch.autocast("cpu", torch.bfloat16):
            results.append(model(ids()))
    assert results[0].dtype == torch.bfloat16
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("net", NETS)
def test_a_bf16_base_keeps_its_matrices_in_fp32(net: str) -> None:
    mine = shaken(ours(net, built(net).bfloat16(), share="a"))
    assert {matrix.dtype for matrix in bank(mine).values()} == {torch.float32}
    other = copy_matrices(theirs(net, built(net).bfloat16()), mine)
    found = mine(ids())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, other(ids()), rtol=0, atol=0)


def slow(entry: Any, matrices: nn.ParameterDict, weight: Tensor, scaling: float) -> Tensor:
    """The weight with W + scaling * B A, position by position of the kernel."""
    a, b = matrices[entry.a], matrices[entry.b]
    if entry.site.embedding:
        return weight + scaling * (b @ a).T
    if not entry.site.kernel:
        return weight + scaling * b @ a
    changed = weight.clone()
    for position in torch.cartesian_prod(*(torch.arange(size) for size in entry.site.kernel)).reshape(
        -1, len(entry.site.kernel)
    ):
        at = (slice(None), slice(None), *position.tolist())
        changed[at] += scaling * b.flatten(1) @ a[at]
    return changed


@pytest.mark.parametrize("net", [net for net in MERGED if net != "attention"])
def test_an_adapter_is_the_formula_in_the_weight(net: str) -> None:
    mine, base = shaken(ours(net, share="a")), built(net)
    with torch.no_grad():
        for entry in mine.base_model.plans["default"].entries:
            module = base.get_submodule(entry.site.path)
            module.weight.copy_(slow(entry, bank(mine), module.weight, 6 / 4))
    torch.testing.assert_close(mine(ids()), base(ids()), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:All adapters are already merged", "ignore:Already unmerged")
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("net", MERGED)
def test_merging_changes_no_output_and_can_be_undone(net: str, dora: bool) -> None:
    if dora and net not in DORA:
        pytest.skip("PEFT has no DoRA of attention")
    mine = shaken(ours(net, share="a", use_dora=dora))
    expected, plain = mine(ids()), built(net)(ids())
    mine.merge_adapter()
    torch.testing.assert_close(mine(ids()), expected, rtol=1e-4, atol=1e-5)
    mine.unmerge_adapter()
    torch.testing.assert_close(mine(ids()), expected, rtol=1e-4, atol=1e-5)
    with mine.disable_adapter():
        torch.testing.assert_close(mine(ids()), plain, rtol=1e-4, atol=1e-5)
    merged = mine.merge_and_unload(safe_merge=True)
    assert type(merged) is type(built(net)) and merged.state_dict().keys() == built(net).state_dict().keys()
    torch.testing.assert_close(merged(ids()), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-3)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_what_is_saved_is_loaded(tmp_path: Path, net: str, low_memory: bool) -> None:
    mine = shaken(ours(net, share="a", use_dora=net in DORA))
    mine.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(built(net), str(tmp_path), low_cpu_mem_usage=low_memory).eval()
    # PEFT adds to the weights of attention, and takes away again, at each use.
    torch.testing.assert_close(loaded(ids()), mine(ids()), rtol=1e-5, atol=1e-6)
    assert loaded.base_model.plans["default"] == mine.base_model.plans["default"]
    assert {name: value.device.type for name, value in bank(loaded).items()} == dict.fromkeys(bank(mine), "cpu")


@pytest.mark.parametrize("net", NETS)
def test_several_adapters(net: str) -> None:
    mine = shaken(ours(net, share="a"))
    first = mine(ids())
    mine.add_adapter("other", mine.peft_config["default"])
    mine.set_adapter("other")
    torch.testing.assert_close(mine(ids()), built(net)(ids()), rtol=1e-5, atol=1e-6)
    trained = {name for name, value in mine.named_parameters() if value.requires_grad}
    assert trained == {f"base_model.lora_bank.other.{name}" for name in bank(mine)}
    for value in bank(mine, "other").values():
        value.data.add_(0.1)
    second = mine(ids())
    if net != "attention":  # PEFT mixes no adapters there
        mixed = mine(ids(), adapter_names=["default", "other", "__base__", "other"])
        rows = torch.stack([first[0], second[1], built(net)(ids())[2], second[3]])
        torch.testing.assert_close(mixed, rows, rtol=1e-4, atol=1e-5)
    mine.set_adapter("default")
    torch.testing.assert_close(mine(ids()), first, rtol=1e-5, atol=1e-6)
    mine.delete_adapter("other")
    assert list(mine.base_model.lora_bank) == ["default"]
    assert not [name for name, _ in mine.named_modules() if name.endswith(".other")]
    torch.testing.assert_close(mine(ids()), first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_ranks_and_alphas_of_single_modules(net: str) -> None:
    name = NETS[net][1][0]
    settings = {"rank_pattern": {name if name == "words" else f"0.{name}": 2}, "alpha_pattern": {name: 9}}
    mine, other = shaken(ours(net, **settings)), theirs(net, **settings)
    compare(mine, copy_matrices(other, mine))
    ranks = {entry.r for entry in mine.base_model.plans["default"].entries}
    assert ranks == {2, 4}


def test_training_moves_an_embedding_that_starts_at_zero() -> None:
    mine = ours("embeddings", share="a")
    starts = {name: bool(value.any()) for name, value in bank(mine).items()}
    assert starts == {name: name.startswith("lora_B/") for name in starts}
    optimizer = torch.optim.AdamW(bank(mine).values(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(mine(ids()), ids()[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("net", NETS)
def test_plans_are_read_back(net: str) -> None:
    plan = ours(net, share="a").base_model.plans["default"]
    again = SharingPlan.from_json(plan.to_json())
    assert again == plan and again.hash == plan.hash
    by_hand = ours(net, share_plan=plan.to_json()).base_model.plans["default"]
    assert by_hand == plan


def test_a_plan_says_what_its_sites_are() -> None:
    sites = {e.site.path: e.site for e in ours("conv3d").base_model.plans["default"].entries}
    assert sites["layers.1.conv"].kernel == (3, 3, 3) and not sites["layers.1.conv"].embedding
    assert sites["layers.1.kinds"].embedding and sites["layers.1.kinds"].d_in == 4
    shapes = ours("groups", share="a").base_model.plans["default"].matrices
    assert shapes == {
        "lora_A/conv/*/4x8x3x3": (4, 8, 3, 3),
        **{f"lora_B/conv/{layer}/8x2x1x1": (8, 2, 1, 1) for layer in range(3)},
    }


def test_an_embedding_never_shares_with_other_modules() -> None:
    # Both map 4 to 8, and one A would have to start at zero and at random.
    net = Net()
    for layer in net.layers:
        layer["also"] = nn.Linear(4, 8)
    mine = ours("embeddings", net, target_modules=["kinds", "also"], share="ab", share_across="both")
    assert {len({site.embedding for site in users}) for users in mine.base_model.plans["default"].users.values()} == {1}
    rows = {"sites": [{"path": "*", "a": "one", "b": "{kind}/{layer}"}]}
    with pytest.raises(
        UserError, match=r"^matrix lora_A/one/4x4 would be of an embedding and of layers\.0\.also; the A "
    ):
        ours("embeddings", mine.unload(), target_modules=["kinds", "also"], share_plan=rows)


class Scaled(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Declared(Scaled):
    embed_scale = 2.0


def with_words(words: nn.Module) -> nn.Module:
    net = Net()
    net.words = words
    return net


@pytest.mark.parametrize(
    ("net", "settings", "message"),
    [
        (lambda: Net(dilation=2), {}, r"^layers\.0\.conv is Conv1d: its dilation is \(2,\), and PEFT's LoRA of a conv"),
        (lambda: Net(padding_mode="circular"), {}, r"^layers\.0\.conv is Conv1d: its padding is circular, and PEFT's"),
        (
            lambda: Net(groups=8),
            {},
            r"^rank 4 for layers\.0\.conv, a convolution of 8 groups that each take an equal p",
        ),
        (
            Net,
            {"enable_lora": {"conv": [True, False]}},
            r"^enable_lora names layers\.0\.conv, which is no linear layer",
        ),
        (
            Net,
            {"init_lora_weights": "pissa"},
            r"^init_lora_weights='pissa' is for linear layers, which layers\.0\.conv",
        ),
        (lambda: with_words(Scaled(20, 8)), {}, r"^words is Scaled: it computes in its own way, and PEFT's LoRA knows"),
        (
            lambda: with_words(nn.utils.parametrizations.weight_norm(nn.Conv1d(20, 8, 1))),
            {},
            r"^words is ParametrizedConv1d: its weight is computed from others",
        ),
        (
            lambda: with_words(nn.EmbeddingBag(20, 8)),
            {},
            r"^words is EmbeddingBag: need a linear layer, an embedding, ",
        ),
        (Attentive, {"use_dora": True}, r"^use_dora does not go with layers\.0\.attention: PEFT has no DoRA for Multi"),
        (Attentive, {"init_lora_weights": "olora"}, r"is for linear layers, which layers\.0\.attention is not"),
        (Attentive, {"enable_lora": {"attention": [True] * 3}}, r"names layers\.0\.attention, which is no linear"),
    ],
)
def test_what_peft_cannot_adapt_is_refused_before_the_model_is_touched(net: Any, settings: Any, message: str) -> None:
    base = net()
    targets = ["words", "attention"] if isinstance(base, Attentive) else ["words", "conv"]
    before = [name for name, _ in base.named_modules()]
    with pytest.raises(UserError, match=message):
        ours("embeddings", base, target_modules=targets, **settings)
    assert [name for name, _ in base.named_modules()] == before


def test_an_embedding_that_says_its_scale_is_adapted() -> None:
    mine = shaken(ours("embeddings", with_words(Declared(20, 8)), target_modules=["words"]))
    expected = mine(ids())
    torch.testing.assert_close(mine.merge_and_unload()(ids()), expected, rtol=1e-4, atol=1e-5)


def test_all_linear_stays_linear() -> None:
    plan = ours("conv1d", target_modules="all-linear").base_model.plans["default"]
    assert list(plan.by_path) == ["out"]


@pytest.mark.parametrize("net", ["embeddings", "conv1d", "conv3d"])
def test_the_state_of_adafactor_is_counted(net: str) -> None:
    mine = ours(net, share="a")
    optimizer = Adafactor(bank(mine).values())
    mine(ids()).sum().backward()
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    factors = [value.nbytes for value in kept if value.dim()]
    assert optimizer_bytes(mine.base_model.plans["default"], "adafactor") == sum(factors)


def test_a_budget_knows_the_groups_of_a_convolution() -> None:
    sites = find_sites(Net("2d", groups=2), ["conv"])
    # At rank 2: a shared A of 2 x 8 x 3 x 3 and three Bs of 8 x 1.
    found = {rule: best for rule in ("none", "a") for best in fits({"conv": sites}, Budget(700), {rule: RULES[rule]})}
    assert {name: (fit.rank, fit.parameters) for name, fit in found.items()} == {"none": (2, 456), "a": (8, 672)}
    assert [fit.rank for fit in fits({"conv": sites}, Budget(700), {"a": RULES["a"]}, rank=3)] == [0]
    message = "the smallest plan, share a on conv at rank 2, has 168 parameters"
    with pytest.raises(UserError, match=message):
        render(fits({"conv": sites}, Budget(100), {"a": RULES["a"]}), Budget(100))


def test_merging_groups_is_refused_by_peft() -> None:
    with pytest.raises(NotImplementedError, match="groups > 1"):
        ours("groups").merge_and_unload()
