"""A part of a fused module is what the model's own code takes as q, k or v, or as gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn
from toy_models import adapted, gpt2, llama, neox, phi3, shake

from sharelora import UserError, find_sites
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.plan.site import Site
from sharelora.tuner.layouts import layout_of

SMALL = {"vocab_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 1}
WIDE = {**SMALL, "hidden_size": 32, "intermediate_size": 48, "pad_token_id": 0}
FALCON = {**SMALL, "hidden_size": 32}
OLD = {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 1}
DBRX = {
    "vocab_size": 48, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64,
    "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
    "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 2, "moe_top_k": 1},
}  # fmt: skip
# Family -> class of the model and its configuration's, settings, and a fused attention.
ATTENTIONS: dict[str, tuple[type, type, dict[str, Any], str]] = {
    "gpt2": (t.GPT2Model, t.GPT2Config, OLD, "h.1.attn.c_attn"),
    "openai-gpt": (t.OpenAIGPTModel, t.OpenAIGPTConfig, {**OLD}, "h.1.attn.c_attn"),
    "imagegpt": (t.ImageGPTModel, t.ImageGPTConfig, OLD, "h.1.attn.c_attn"),
    "bigcode, one key": (t.GPTBigCodeModel, t.GPTBigCodeConfig, {**OLD, "multi_query": True}, "h.1.attn.c_attn"),
    "bigcode": (t.GPTBigCodeModel, t.GPTBigCodeConfig, {**OLD, "multi_query": False}, "h.1.attn.c_attn"),
    "bloom": (
        *(t.BloomModel, t.BloomConfig, {"vocab_size": 48, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
        "h.1.self_attention.query_key_value",
    ),
    "gpt-neox": (t.GPTNeoXModel, t.GPTNeoXConfig, WIDE, "layers.1.attention.query_key_value"),
    "gpt-neox-japanese": (
        *(t.GPTNeoXJapaneseModel, t.GPTNeoXJapaneseConfig, FALCON),
        "layers.1.attention.query_key_value",
    ),
    "persimmon": (t.PersimmonModel, t.PersimmonConfig, WIDE, "layers.1.self_attn.query_key_value"),
    "falcon, old": (
        *(t.FalconModel, t.FalconConfig, {**FALCON, "multi_query": False, "new_decoder_architecture": False}),
        "h.1.self_attention.query_key_value",
    ),
    "falcon, one key": (
        *(t.FalconModel, t.FalconConfig, {**FALCON, "multi_query": True, "new_decoder_architecture": False}),
        "h.1.self_attention.query_key_value",
    ),
    "falcon, new": (
        *(t.FalconModel, t.FalconConfig, {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}),
        "h.1.self_attention.query_key_value",
    ),
    "codegen": (t.CodeGenModel, t.CodeGenConfig, {**OLD, "rotary_dim": 4}, "h.1.attn.qkv_proj"),
    "mpt": (
        *(t.MptModel, t.MptConfig, {"vocab_size": 48, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
        "blocks.1.attn.Wqkv",
    ),
    "phi3": (t.Phi3Model, t.Phi3Config, {**WIDE, "num_key_value_heads": 1}, "layers.1.self_attn.qkv_proj"),
    "dbrx": (t.DbrxModel, t.DbrxConfig, DBRX, "blocks.1.norm_attn_norm.attn.Wqkv"),
    "modernbert": (
        *(t.ModernBertModel, t.ModernBertConfig, {**WIDE, "cls_token_id": 1, "sep_token_id": 1}),
        "layers.1.attn.Wqkv",
    ),
    "deberta": (t.DebertaModel, t.DebertaConfig, WIDE, "encoder.layer.1.attention.self.in_proj"),
}


def rows_that_change(base: nn.Module, path: str, flags: list[bool]) -> set[int]:
    """The outputs that an adapter of some parts changes, by the product of its views."""
    name = path.rpartition(".")[2]
    model = shake(adapted(base, share="none", target_modules=[path], enable_lora={name: flags}))
    layer = model.base_model.model.get_submodule(path)
    change = layer.get_delta_weight("default")
    change = change.t() if change.shape[0] == layer.in_features else change
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.equal(delta.abs().sum(1) > 0, layer.lora_B["default"].weight.abs().sum(1) > 0)
    return set((delta.abs().sum(1) > 0).nonzero().flatten().tolist())


class Probe:
    """How an attention depends on the outputs of its fused module, some of them set to zero."""

    def __init__(self, model: nn.Module, path: str) -> None:
        self.model, self.inputs = model, {"input_ids": torch.tensor([[5, 6, 7, 8, 9]])}
        self.fused = model.get_submodule(path)
        self.parent = model.get_submodule(path.rpartition(".")[0])

    def gradients(self, zero: set[int]) -> Tensor:
        """Gradients of what the attention says of the last token, (tokens, outputs of the module)."""
        kept: dict[str, Tensor] = {}

        def cut(_m: nn.Module, _x: Any, y: Tensor) -> Tensor:
            y = y.detach().clone()
            y[..., sorted(zero)] = 0
            kept["fused"] = y.requires_grad_()
            return y

        def keep(_m: nn.Module, _x: Any, y: Any) -> None:
            kept["output"] = y[0] if isinstance(y, tuple | list) else y

        hooks = [self.fused.register_forward_hook(cut), self.parent.register_forward_hook(keep)]
        self.model(**self.inputs)
        for hook in hooks:
            hook.remove()
        last = kept["output"].reshape(5, -1)[-1]
        (grad,) = torch.autograd.grad((last * torch.linspace(1, 2, last.numel())).sum(), kept["fused"])
        return grad.reshape(5, -1)


def used(gradients: Tensor) -> set[int]:
    return set((gradients.abs().sum(0) > 0).nonzero().flatten().tolist())


@pytest.mark.parametrize("family", ATTENTIONS)
@pytest.mark.filterwarnings("ignore")
def test_q_k_and_v_are_what_the_attention_takes_for_them(family: str) -> None:
    """Of an earlier token only its k and v matter; with all queries at zero, attention is uniform and k does not."""
    make, configuration, settings, path = ATTENTIONS[family]
    torch.manual_seed(0)
    config = configuration(**settings)
    config._attn_implementation = "eager"
    base = make(config).eval()
    probe = Probe(base, path)
    earlier = used(probe.gradients(set())[:-1])
    everything = set(range(probe.gradients(set()).shape[1]))
    queries = everything - earlier
    values = used(probe.gradients(queries)[:-1])
    keys = earlier - values
    assert queries and keys and values
    for part, expected in enumerate((queries, keys, values)):
        flags = [index == part for index in range(3)]
        assert rows_that_change(make(config), path, flags) == expected, (family, flags)
    assert rows_that_change(make(config), path, [True, False, True]) == queries | values


@pytest.mark.parametrize("path", ["layers.0.mlp.gate_up_proj"])
def test_gate_and_up_are_what_the_mlp_takes_for_them(path: str) -> None:
    """With the gate at zero, silu is zero, so that up does not matter."""
    config = t.Phi3Config(**WIDE, num_key_value_heads=1)
    gate = used(Probe(t.Phi3Model(config).eval(), path).gradients(set(range(48))))
    assert gate == set(range(48)) == rows_that_change(t.Phi3Model(config), path, [True, False])


def parents(name: str, **attributes: Any) -> nn.Module:
    parent = type(name, (nn.Module,), {})()
    for attribute, value in attributes.items():
        setattr(parent, attribute, value)
    return parent


def chunks(d_out: int, *sizes: int) -> list[list[int]]:
    """The documented reshape: outputs as (..., sum of sizes), cut along the last dimension."""
    parts = torch.arange(d_out).view(-1, sum(sizes)).split(sizes, dim=-1)
    return [part.flatten().tolist() for part in parts]


@pytest.mark.parametrize(
    ("parent", "name", "d_out", "expected"),
    [
        (parents("MambaMixer"), "in_proj", 24, chunks(24, 12, 12)),
        # hidden.view(batch, -1, 2, length).chunk(2, dim=2)
        (parents("ZambaMambaMixer"), "in_proj", 8, [[0, 2, 4, 6], [1, 3, 5, 7]]),
        (
            parents("Mamba2Mixer", intermediate_size=8, n_groups=2, ssm_state_size=3, num_heads=4),
            *("in_proj", 8 + 8 + 6 + 6 + 4, chunks(32, 8, 8, 6, 6, 4)),
        ),
        (
            parents("Qwen3NextGatedDeltaNet", num_v_heads=4, num_k_heads=2, head_k_dim=3, head_v_dim=5),
            *("in_proj_qkvz", 2 * (3 + 3 + 10 + 10), chunks(52, 3, 3, 10, 10)),
        ),
        (parents("DeepseekV3Attention", qk_nope_head_dim=3, v_head_dim=5), "kv_b_proj", 16, chunks(16, 3, 5)),
        (
            parents("InternLM2Attention", num_key_value_groups=2, head_dim=4),
            *("wqkv", 32, chunks(32, 8, 4, 4)),
        ),
        (
            parents(
                *("SelfAttention",),
                **{"multi_query_attention": True, "num_multi_query_groups_per_partition": 2},
                hidden_size_per_attention_head=4,
            ),
            *("query_key_value", 32, chunks(32, 16, 8, 8)),
        ),
        (parents("Phi4MultimodalAudioMLP"), "gate_up_proj", 8, [[4, 5, 6, 7], [0, 1, 2, 3]]),
    ],
)
def test_layouts_are_the_documented_reshapes(
    parent: nn.Module, name: str, d_out: int, expected: list[list[int]]
) -> None:
    found = []
    for part in layout_of(parent, f"layers.0.{name}", d_out):
        _, run, step = part.rows
        found.append(Site("x", "x", 0, 4, d_out // step * run, 0, 3, rows=part.rows).indices)
    assert found == expected


def test_a_subclass_has_the_layout_of_its_base() -> None:
    base = type(gpt2().transformer.h[0].attn)
    assert [p.name for p in layout_of(type("Mine", (base,), {})(gpt2().config), "c_attn", 96)] == ["q", "k", "v"]


@pytest.mark.parametrize(
    ("base", "name", "flags", "message"),
    [
        (llama, "q_proj", [True, False, True], "how a LlamaAttention takes its outputs apart is not known"),
        (neox, "query_key_value", [True, False], r"has 3 parts \(q, k, v\); give true or false for each"),
        (phi3, "gate_up_proj", [True, False, True], r"has 2 parts \(gate, up\)"),
        (gpt2, "c_attn", [False, False, False], "one of them true"),
    ],
)
def test_what_is_no_layout_is_refused_in_one_line(
    base: Callable[[], nn.Module], name: str, flags: list[bool], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        adapted(base(), target_modules=[name], enable_lora={name: flags})
    assert "\n" not in str(error.value)


def test_the_plan_of_gpt2_is_as_before() -> None:
    """Equal parts one after the other say nothing of rows, so that older plans keep their hash."""
    sites = find_sites(gpt2(), ["c_attn"], {"c_attn": [True, False, True]})
    plan = SharingPlan.build(sites, SharingRule("a"), 4)
    assert plan.hash == "6a9bb5a920022cde"
    assert all("rows" not in row for row in plan.to_json()["sites"])


def test_rows_are_saved_and_read() -> None:
    sites = find_sites(neox(), ["query_key_value"], {"query_key_value": [True, False, True]})
    plan = SharingPlan.build(sites, SharingRule("a"), 4)
    assert [site.rows for site in sites[:2]] == [(0, 8, 24), (16, 8, 24)]
    assert SharingPlan.from_json(plan.to_json()) == plan and plan.to_json()["sites"][1]["rows"] == [16, 8, 24]
    assert plan.num_parameters == 2 * 4 * 32 + 4 * 4 * 32  # an A for q and one for v; a B for each and each layer


def test_initial_matrices_are_the_rows_of_their_part() -> None:
    """With B at random, what PEFT drew for the whole module is what the parts have."""
    model = adapted(
        neox(), share="none", target_modules=["query_key_value"], init_lora_weights=False,
        enable_lora={"query_key_value": [True, False, True]},
    )  # fmt: skip
    plan, bank = model.base_model.plans["default"], model.base_model.bank("default")
    layer = model.base_model.model.get_submodule(plan.entries[0].site.path)
    whole = layer.lora_B["default"].weight
    for column, entry in enumerate(plan.by_path[plan.entries[0].site.path]):
        assert torch.equal(whole[entry.site.indices, 4 * column : 4 * column + 4], bank[entry.b])
    assert whole.shape == (96, 8) and bank[plan.entries[0].b].abs().max() > 0


def test_adapters_of_older_versions_keep_their_equal_parts(tmp_path: Any) -> None:
    """They were trained as if q were the first third of the outputs, whatever the model takes it for."""
    from peft import PeftModel

    sites = find_sites(neox(), ["query_key_value"], {"query_key_value": [True, False, True]})
    old = [Site(s.path, s.kind, s.layer, s.d_in, s.d_out, s.part, s.parts) for s in sites]
    plan = SharingPlan.build(old, SharingRule("a"), 4)
    model = shake(
        adapted(
            neox(), target_modules=["query_key_value"], enable_lora={"query_key_value": [True, False, True]},
            plan=plan.to_json(),
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(neox(), tmp_path)
    for one in (model, loaded):
        assert one.base_model.plans["default"].hash == plan.hash
        layer = one.base_model.model.get_submodule(sites[0].path)
        b = layer.lora_B["default"].weight
        assert (b.abs().sum(1) > 0).tolist() == [True] * 32 + [False] * 32 + [True] * 32
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded.eval()(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
