"""Where q, k and v, or gate and up, are in the outputs of a fused module, by the class that takes them apart.

A layout says which runs of outputs follow each other, once or again and again: GPT-2 has all of q, then k, then v;
GPT-NeoX the q, k and v of its first head, then those of the second. Each was read in the code of its class, and a test
compares it with what that code computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sharelora.support.errors import UserError


@dataclass(frozen=True)
class Part:
    """A part of a fused module's outputs.

    Attributes:
        name: what the model's code calls it.
        rows: as in `Site`: (first, run, step), of every `step` outputs the `run` from `first` on.
    """

    name: str
    rows: tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    """How a fused module's outputs are arranged.

    Attributes:
        names: of the parts, in the order of the flags of `enable_lora`.
        widths: (parent, D_out) -> width of each part's run, in the order of `names`. If their sum is not all of the
            outputs, the runs are repeated.
        order: of the runs in the outputs, where that is not the order of `names`.
    """

    names: tuple[str, ...]
    widths: Callable[[Any, int], Sequence[int]]
    order: tuple[str, ...] = ()

    def parts(self, parent: nn.Module, d_out: int) -> list[Part]:
        """Return the parts of a module with D_out outputs inside of a parent; empty if the widths do not fit."""
        widths = dict(zip(self.names, self.widths(parent, d_out), strict=True))
        step, first = sum(widths.values()), 0
        if min(widths.values()) < 1 or d_out % step:
            return []
        found: dict[str, Part] = {}
        for name in self.order or self.names:
            found[name] = Part(name, (first, widths[name], step))
            first += widths[name]
        return [found[name] for name in self.names]


QKV = ("q", "k", "v")
GATE_UP = ("gate", "up")


def _equal(count: int) -> Callable[[Any, int], Sequence[int]]:
    return lambda parent, d_out: [d_out // count] * count


def _head(parent: Any) -> int:
    names = ("head_dim", "head_size", "attention_head_size", "hidden_size_per_attention_head")
    return int(next(getattr(parent, name) for name in names if hasattr(parent, name)))


def _per_head(parent: Any, d_out: int) -> Sequence[int]:
    return [_head(parent)] * 3


def _grouped(parent: Any, d_out: int) -> Sequence[int]:
    """All queries, then the keys and values of fewer heads."""
    queries = parent.config.num_attention_heads * parent.head_dim
    return [queries, (d_out - queries) // 2, (d_out - queries) // 2]


def _falcon(parent: Any, d_out: int) -> Sequence[int]:
    heads, head = parent.num_heads, parent.head_dim
    if parent.new_decoder_architecture:
        return [heads // parent.num_kv_heads * head, head, head]
    return [heads * head, head, head] if parent.multi_query else [head] * 3


def _bigcode(parent: Any, d_out: int) -> Sequence[int]:
    return [parent.embed_dim, parent.kv_dim, parent.kv_dim] if parent.multi_query else [parent.head_dim] * 3


def _dbrx(parent: Any, d_out: int) -> Sequence[int]:
    keys = parent.num_key_value_heads * parent.head_dim
    return [d_out - 2 * keys, keys, keys]


def _exaone(parent: Any, d_out: int) -> Sequence[int]:
    return [parent.q_dim, parent.kv_dim, parent.kv_dim]


def _chatglm(parent: Any, d_out: int) -> Sequence[int]:
    head = parent.hidden_size_per_attention_head
    if not getattr(parent, "multi_query_attention", False):
        return [head] * 3
    keys = parent.num_multi_query_groups_per_partition * head
    return [d_out - 2 * keys, keys, keys]


def _internlm(parent: Any, d_out: int) -> Sequence[int]:
    return [parent.num_key_value_groups * parent.head_dim, parent.head_dim, parent.head_dim]


def _latent(parent: Any, d_out: int) -> Sequence[int]:
    return [parent.qk_nope_head_dim, parent.v_head_dim]


def _mamba2(parent: Any, d_out: int) -> Sequence[int]:
    states = parent.n_groups * parent.ssm_state_size
    return [parent.intermediate_size, parent.intermediate_size, states, states, parent.num_heads]


def _delta(parent: Any, d_out: int) -> Sequence[int]:
    return [parent.key_dim, parent.key_dim, parent.value_dim]


def _qkvz(parent: Any, d_out: int) -> Sequence[int]:
    values = parent.num_v_heads // parent.num_k_heads * parent.head_v_dim
    return [parent.head_k_dim, parent.head_k_dim, values, values]


def _ba(parent: Any, d_out: int) -> Sequence[int]:
    return [parent.num_v_heads // parent.num_k_heads] * 2


THIRDS = Layout(QKV, _equal(3))
PER_HEAD = Layout(QKV, _per_head)
HALVES = Layout(GATE_UP, _equal(2))
GROUPED = Layout(QKV, _grouped)
CROSS = Layout(("k", "v"), _equal(2))  # the layers of GPT-2's kin that read an encoder have a q of their own
MAMBA = Layout(("x", "z"), _equal(2))
MAMBA2 = Layout(("z", "x", "b", "c", "dt"), _mamba2)

# Module -> the class that holds it, or one that this derives from -> layout.
LAYOUTS: dict[str, dict[Layout, tuple[str, ...]]] = {
    "c_attn": {
        THIRDS: (
            *("GPT2Attention", "DecisionTransformerGPT2Attention", "ImageGPTAttention", "QWenAttention"),
            "Attention",  # OpenAI's first GPT
        ),
        Layout(QKV, _bigcode): ("GPTBigCodeAttention",),
    },
    "query_key_value": {
        PER_HEAD: ("BloomAttention", "GPTNeoXAttention", "GPTNeoXJapaneseAttention", "PersimmonAttention"),
        Layout(QKV, _falcon): ("FalconAttention",),
        Layout(QKV, _chatglm): ("SelfAttention",),  # ChatGLM
    },
    "qkv_proj": {
        GROUPED: ("Phi3Attention", "Phi4MultimodalAttention"),
        # Four blocks, one per core of the machine that it was trained on, each with its q, v and k.
        Layout(QKV, lambda parent, d_out: [d_out // 12] * 3, order=("q", "v", "k")): ("CodeGenAttention",),
        PER_HEAD: ("MiniMaxLightningAttention",),
    },
    "Wqkv": {
        THIRDS: ("MptAttention", "ModernBertAttention"),
        Layout(QKV, _dbrx): ("DbrxAttention",),
    },
    "wqkv": {Layout(QKV, _internlm): ("InternLM2Attention",)},
    "W_pack": {THIRDS: ("BaichuanAttention", "Attention")},
    "att_proj": {THIRDS: ("BarkSelfAttention",)},
    "qkv_linear": {THIRDS: ("LayoutLMv2SelfAttention",)},
    "qkv": {
        THIRDS: (
            *("BlipAttention", "Blip2Attention", "InstructBlipAttention", "InstructBlipVideoAttention"),
            *("CohereCompassVisionAttention", "DeepseekOcr2SamVisionAttention", "Dots3NoteVisionAttention"),
            *("Ernie4_5_VLMoeVisionAttention", "Florence2VisionChannelAttention", "Florence2VisionWindowAttention"),
            *("Glm4vMoeVisionAttention", "Glm4vVisionAttention", "Glm5NextVisionAttention", "GlmImageVisionAttention"),
            *("GlmOcrVisionAttention", "GotOcr2VisionAttention", "HieraMaskUnitAttention", "MgpstrAttention"),
            *("PPFormulaNetVisionAttention", "PPOCRV5MobileRecAttention", "PPOCRV5ServerRecAttention"),
            *("PPOCRV6SmallRecAttention", "Qwen2_5_VLVisionAttention", "Qwen3OmniMoeVisionAttention"),
            *("Qwen3VLMoeVisionAttention", "Qwen3VLVisionAttention", "Qwen3_5MoeVisionAttention"),
            *("Qwen3_5VisionAttention", "Qwen4ExpVisionAttention", "SLANeXtVisionAttention", "Sam2MultiScaleAttention"),
            *("SamHQVisionAttention", "SamVisionAttention", "SegGptAttention", "TimesformerSelfAttention"),
            *("UnlimitedOcrSamVisionAttention", "VisionAttention", "VitDetAttention"),
        ),
        Layout(QKV, _exaone): ("Exaone4_5_VisionAttention",),
    },
    "gate_up_proj": {
        HALVES: (
            *("DiaMLP", "Dots3NoteAudioMLP", "EsmFold2SwiGLU", "Glm4MLP", "Glm4vTextMLP", "GlmImageTextMLP", "GlmMLP"),
            *("GlmOcrTextMLP", "MiniMaxM3VLDenseMLP", "Phi3MLP", "Phi4MultimodalMLP", "Zamba2MLP"),
        ),
        Layout(GATE_UP, _equal(2), order=("up", "gate")): ("Phi4MultimodalAudioMLP",),
    },
    "input_linear": {HALVES: ("GraniteMoeHybridMLP", "GraniteMoeSWAMLP", "GraniteMoeSharedMLP")},
    "Wi": {HALVES: ("ModernBertMLP", "ModernBertDecoderMLP")},
    "kv_b_proj": {
        Layout(("k", "v"), _latent): (
            *("AXK1Attention", "AXK2Attention", "BailingHybridAttention", "DeepseekV2Attention", "DeepseekV3Attention"),
            *("DeepseekV32Attention", "Dots3NoteTextAttention", "Glm4MoeLiteAttention", "Glm5NextTextAttention"),
            *("GlmMoeDsaAttention", "HYV4Attention", "KimiLinearAttention", "LongcatFlashMLA", "MiniCPM3Attention"),
            *("Mistral4Attention", "MistralLarge4TextAttention", "YoutuAttention"),
        ),
    },
    "in_proj": {
        PER_HEAD: ("DisentangledSelfAttention",),  # DeBERTa
        MAMBA: ("MambaMixer", "FalconMambaMixer", "JambaMambaMixer"),
        Layout(("x", "z"), lambda parent, d_out: [1, 1]): ("ZambaMambaMixer",),
        MAMBA2: (
            *("Mamba2Mixer", "BambaMixer", "FalconH1Mixer", "GraniteMoeHybridMambaLayer", "NemotronHMamba2Mixer"),
            "Zamba2MambaMixer",
        ),
        Layout(("b", "c", "x"), _equal(3)): ("Lfm2ShortConv", "Lfm2MoeShortConv", "Lfm3ShortConv"),
    },
    "in_proj_qkv": {
        Layout(QKV, _delta): ("Qwen3_5GatedDeltaNet", "Qwen3_5MoeGatedDeltaNet", "Qwen4ExpTextGatedDeltaNet")
    },
    "in_proj_qkvz": {Layout((*QKV, "z"), _qkvz): ("Qwen3NextGatedDeltaNet",)},
    "in_proj_ba": {Layout(("b", "a"), _ba): ("Qwen3NextGatedDeltaNet",)},
}


def layout_of(parent: nn.Module, path: str, d_out: int) -> list[Part]:
    """Return the parts of a fused module.

    Args:
        parent: the module that holds it and takes its outputs apart.
        path: of the module.
        d_out: D_out, its outputs.

    Raises:
        UserError: a class whose layout is not known, or other widths than its layout has.
    """
    name, holder = path.rpartition(".")[2], type(parent).__name__
    rows = LAYOUTS.get(name, {})
    bases = [base.__name__ for base in type(parent).__mro__]
    layout = next((layout for base in bases for layout, classes in rows.items() if base in classes), None)
    if layout is THIRDS and getattr(parent, "is_cross_attention", False):
        layout = CROSS
    if layout is None:
        raise UserError(
            f"enable_lora names {path}, but how a {holder} takes its outputs apart is not known; "
            "known are GPT-2, Phi-3 and the others of sharelora/tuner/layouts.py; leave the module out of enable_lora"
        )
    parts = layout.parts(parent, d_out)
    if not parts:
        raise UserError(
            f"{path} has {d_out} outputs, which are not the {', '.join(layout.names)} of a {holder}; "
            "leave the module out of enable_lora"
        )
    return parts
