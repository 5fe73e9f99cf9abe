"""The generation of an evaluation command: checked before a model is loaded, run, and its costs counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharelora.data.begin import Beginning, begin_token
from sharelora.evaluation.batching import BatchSize
from sharelora.evaluation.commands import GenerationOptions
from sharelora.evaluation.generation.engine import TextStore, generate, keys
from sharelora.evaluation.generation.settings import (
    Generated,
    GenerationSettings,
    Key,
    Prompt,
    encode,
    fingerprint,
    require_room,
)
from sharelora.evaluation.generation.vllm import VllmModel, generate_with_vllm, require_vllm
from sharelora.evaluation.subject import Subject, write_records
from sharelora.evaluation.tokens import Encoded
from sharelora.models.load import load_tokenizer
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable

logger = logging.getLogger(__name__)

# What --generate_only writes unless a benchmark has its own form; predictions.jsonl belongs to result.json.
TEXTS = "texts.jsonl"


@dataclass(frozen=True)
class GenerationJob:
    """A generation that has been checked and can start.

    Args:
        options: the flags.
        subject: base and adapter.
        tokenizer: the base's.
        prompts: what texts follow.
        encoded: the same as tokens.
        settings: of the generation.
        context: most tokens of a prompt and its text together; None for no limit.
        begin: what prompts begin with.
    """

    options: GenerationOptions
    subject: Subject
    tokenizer: Any
    prompts: Sequence[Prompt]
    encoded: Sequence[Encoded]
    settings: GenerationSettings
    context: int | None
    begin: Beginning

    def deciding(self) -> dict[str, Any]:
        """Return everything that decides which texts are generated; the batch size does not."""
        options, facts = self.options, {**self.subject.fingerprint(), **fingerprint(self.prompts)}
        precision = {"bits": options.bits, "dtype": options.dtype}
        # What training begins rows with is not named: until there was a choice, every prompt began so.
        as_trained = list(self.begin.ids) == begin_token(self.tokenizer)
        begin = {} if as_trained else {"begin": list(self.begin.ids)}
        return {**facts, "engine": options.engine, **precision, **self.settings.deciding(), **begin}


@dataclass(frozen=True)
class GenerationResult:
    """The texts and what they cost, the cost of earlier interrupted runs included.

    Args:
        texts: prompt by prompt, the samples of each together.
        prompt_tokens: tokens of all prompts.
        known: how many texts an earlier run had generated.
        model: what generated the others; None if it was vLLM, or if none were missing.
        begin: what prompts begin with.
    """

    texts: list[Generated]
    prompt_tokens: int
    known: int
    model: Any
    begin: Beginning

    def metrics(self) -> dict[str, Any]:
        """Return what the generation took, and how texts ended."""
        tokens, seconds = sum(text.tokens for text in self.texts), sum(text.seconds for text in self.texts)
        return {
            "texts": len(self.texts),
            "texts_found_before": self.known,
            "ended": dict(sorted(Counter(text.ended for text in self.texts).items())),
            "tokens": tokens,
            "prompt_tokens": self.prompt_tokens,
            "generation_seconds": seconds,
            "tokens_per_second": tokens / max(seconds, 1e-9),
        }

    def line(self) -> str:
        """The costs in one line."""
        metrics = self.metrics()
        ended = ", ".join(f"{count:,} by {name}" for name, count in metrics["ended"].items())
        speed = f"{metrics['tokens']:,} tokens in {metrics['generation_seconds']:.1f} s"
        return f"  {metrics['texts']:,} texts, ended {ended}; {speed} ({metrics['tokens_per_second']:,.0f} a second)"


def generation_settings(options: GenerationOptions, samples: int = 1) -> GenerationSettings:
    """Return the settings that the flags name.

    Raises:
        UserError: a value out of range.
    """
    stop = tuple(text.replace("\\n", "\n") for text in options.stop)
    return GenerationSettings(options.max_new_tokens, options.temperature, options.top_p, stop, options.seed, samples)


def prepare_generation(
    options: GenerationOptions, subject: Subject, prompts: Sequence[Prompt], samples: int = 1
) -> GenerationJob:
    """Check everything that can be known before a model is loaded.

    Args:
        options: the flags.
        subject: base and adapter.
        prompts: what texts follow.
        samples: texts per prompt.

    Raises:
        UserError: the first thing that would fail.
    """
    settings = generation_settings(options, samples)
    BatchSize(options.batch_size, 1)
    if options.engine == "vllm":
        require_vllm()
        if options.bits < 16:
            raise UserError(
                f"found --engine vllm with --bits {options.bits}; need 16 or 32 for it; leave out one of them"
            )
    tokenizer, context = load_tokenizer(subject.base), subject.context(options.max_length)
    begin = subject.begin(tokenizer, options.bos)
    encoded = encode(tokenizer, prompts, begin.ids)
    require_room(encoded, settings, context)
    subject.require_embeddings(tokenizer, encoded)
    return GenerationJob(options, subject, tokenizer, prompts, encoded, settings, context, begin)


def generate_texts(job: GenerationJob, title: str) -> GenerationResult:
    """Generate the texts that are missing; a model is loaded only if some are.

    Args:
        job: what to generate.
        title: of the benchmark, for the progress.

    Raises:
        UserError: the output folder has texts of other settings, or the model cannot be loaded or run.
    """
    store = TextStore(require_writable(job.options.output), job.deciding(), job.options.overwrite)
    wanted = keys(len(job.prompts), job.settings)
    missing = [key for key in wanted if key not in store.results]
    logger.info("%s of %s texts are there already", f"{len(wanted) - len(missing):,}", f"{len(wanted):,}")
    model = _generate_missing(job, missing, store, Progress(title)) if missing else None
    texts = [store.results[key] for key in wanted]
    prompt_tokens = sum(item.length for item in job.encoded)
    return GenerationResult(texts, prompt_tokens, len(wanted) - len(missing), model, job.begin)


def _generate_missing(job: GenerationJob, missing: Sequence[Key], store: TextStore, listener: Progress) -> Any:
    options, subject = job.options, job.subject
    if options.engine == "vllm":
        dtype = "fp32" if options.bits == 32 else options.dtype
        names = [prompt.name for prompt in job.prompts]
        vllm_model = VllmModel(subject.base, subject.adapter, dtype, job.context)
        generate_with_vllm(vllm_model, job.encoded, names, job.settings, missing, store, listener)
        return None
    model = subject.load(options)
    generate(model, job.tokenizer, job.prompts, job.settings, options.batch_size, store, listener, job.begin.ids)
    return model


def write_texts(job: GenerationJob, result: GenerationResult, rows: Iterable[Mapping[str, Any]], file: str) -> str:
    """Write the records of texts that are not scored; return what to print.

    Args:
        job: what was generated.
        result: the texts.
        rows: their records.
        file: a name in the output folder.
    """
    return f"{result.line()}\n{result.begin.line()}\nwrote {write_records(job.options.output, rows, file)}"
