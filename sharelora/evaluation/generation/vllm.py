"""The same generation by vLLM, where it is installed: faster on a GPU; its samples use its own random numbers.

vLLM reads plain LoRA only, so an adapter of this project is first exported to that form, into a temporary folder.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.convert import export_lora
from sharelora.evaluation.batching import Listener
from sharelora.evaluation.generation.engine import TextStore
from sharelora.evaluation.generation.sampling import seed_of
from sharelora.evaluation.generation.settings import Generated, GenerationSettings, Key
from sharelora.evaluation.tokens import Encoded
from sharelora.support.errors import UserError
from sharelora.support.text import one_line
from sharelora.tuner.files import read_config

logger = logging.getLogger(__name__)

DTYPES = {"auto": "auto", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# The values that vLLM takes for `max_lora_rank`.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Texts given to vLLM at once; it makes batches itself, and after each chunk the texts are written to disk.
CHUNK = 512


@dataclass(frozen=True)
class VllmModel:
    """The model that vLLM loads.

    Args:
        base: folder or hub id of the base.
        adapter: the adapter's folder; None for the bare base.
        dtype: as `--dtype`.
        context: most tokens of prompt and text together; None for the model's own limit.
    """

    base: str
    adapter: Path | None
    dtype: str = "auto"
    context: int | None = None


def require_vllm() -> Any:
    """Return the module.

    Raises:
        UserError: it is not installed, or cannot be imported on this machine.
    """
    try:
        import vllm
        import vllm.lora.request
    except ImportError as error:
        raise UserError(
            f"found --engine vllm, but vllm cannot be imported ({error}); need it, and a GPU; run pip install vllm, or "
            "leave out --engine"
        ) from error
    return vllm


def generate_with_vllm(
    model: VllmModel,
    encoded: Sequence[Encoded],
    names: Sequence[str],
    settings: GenerationSettings,
    missing: Sequence[Key],
    store: TextStore,
    listener: Listener,
) -> None:
    """Generate texts into a store.

    Args:
        model: what generates.
        encoded: the prompts.
        names: of the prompts, see `Prompt`.
        settings: of the generation.
        missing: keys of the texts to generate.
        store: takes every chunk as soon as it has ended.
        listener: called after every chunk with the finished and all texts, and the tokens generated.

    Raises:
        UserError: vLLM is not installed, or cannot load the model or the adapter.
    """
    vllm = require_vllm()
    with _plain_adapter(model.adapter) as adapter:
        engine, request = _load(vllm, model, adapter, settings)
        done = tokens = 0
        for first in range(0, len(missing), CHUNK):
            chunk = missing[first : first + CHUNK]
            began = time.perf_counter()
            outputs = engine.generate(
                [{"prompt_token_ids": list(encoded[prompt].ids)} for prompt, _ in chunk],
                [_sampling(vllm, settings, names[prompt] or str(prompt), sample) for prompt, sample in chunk],
                lora_request=request,
                use_tqdm=False,
            )
            seconds = (time.perf_counter() - began) / len(chunk)
            new = {key: _text(output.outputs[0], seconds) for key, output in zip(chunk, outputs, strict=True)}
            store.add(new)
            done, tokens = done + len(chunk), tokens + sum(text.tokens for text in new.values())
            listener(done, len(missing), tokens)


@contextmanager
def _plain_adapter(adapter: Path | None) -> Iterator[Path | None]:
    """The adapter in the form that vLLM reads."""
    if adapter is None or read_config(adapter).get("peft_type") == "LORA":
        yield adapter
        return
    with tempfile.TemporaryDirectory(prefix="sharelora-") as folder:
        yield export_lora(adapter, Path(folder) / "plain").folder


def _load(vllm: Any, model: VllmModel, adapter: Path | None, settings: GenerationSettings) -> tuple[Any, Any]:
    """The engine, and the request that makes it use the adapter."""
    options: dict[str, Any] = {"dtype": DTYPES[model.dtype], "max_model_len": model.context, "seed": settings.seed}
    if adapter is not None:
        options |= {"enable_lora": True, "max_lora_rank": _rank_capacity(adapter)}
    try:
        engine = vllm.LLM(model=model.base, enable_prefix_caching=True, **options)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"vllm cannot load {model.base}: {one_line(error)}; leave out --engine to do without it"
        ) from error
    return engine, None if adapter is None else vllm.lora.request.LoRARequest("adapter", 1, str(adapter))


def _rank_capacity(adapter: Path) -> int:
    rank = read_config(adapter).get("r") or 0
    capacity = next((size for size in RANKS if size >= rank), None)
    if capacity is None:
        raise UserError(f"found an adapter of rank {rank}; need at most {RANKS[-1]} for vllm; leave out --engine")
    return capacity


def _sampling(vllm: Any, settings: GenerationSettings, name: str, sample: int) -> Any:
    return vllm.SamplingParams(
        n=1,
        temperature=settings.temperature,
        top_p=1.0 if settings.greedy else settings.top_p,
        max_tokens=settings.max_new_tokens,
        stop=list(settings.stop) or None,
        seed=None if settings.greedy else seed_of(settings.seed, name, sample),
        skip_special_tokens=True,
        spaces_between_special_tokens=False,
    )


def _text(output: Any, seconds: float) -> Generated:
    """One of vLLM's completions; its stop reason is the stop string, or the end token's id or None."""
    if output.finish_reason == "length":
        return Generated(output.text, len(output.token_ids), "length", seconds)
    return Generated(
        output.text, len(output.token_ids), "stop" if isinstance(output.stop_reason, str) else "eos", seconds
    )
