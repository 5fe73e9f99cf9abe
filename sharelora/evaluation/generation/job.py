"""What commands that generate have in common: their flags, the checks before a model is loaded, and the generation."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.evaluation import command
from sharelora.evaluation.batching import BatchSize
from sharelora.evaluation.encoding import Encoded
from sharelora.evaluation.generation.engine import generate, keys
from sharelora.evaluation.generation.prompts import encode, fingerprint, require_room
from sharelora.evaluation.generation.settings import Generated, GenerationSettings, Key, Prompt
from sharelora.evaluation.generation.store import TextStore
from sharelora.evaluation.generation.vllm import VllmModel, generate_with_vllm, require_vllm
from sharelora.flags.parser import Parser
from sharelora.models.load import load_tokenizer
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable

logger = logging.getLogger(__name__)

ENGINES = ("hf", "vllm")
# What --generate_only writes where nothing else is agreed on; predictions.jsonl belongs to result.json.
TEXTS = "texts.jsonl"


def add_flags(parser: Parser, max_new_tokens: int, stop: Sequence[str]) -> None:
    """Add the flags of a generation.

    Args:
        parser: of the command.
        max_new_tokens: by default.
        stop: strings before which texts end by default.
    """
    add = parser.add_argument
    add("--max_new_tokens", type=int, default=max_new_tokens, help="most tokens of a text")
    add("--temperature", type=float, default=0.0, help="0 takes the likeliest token, more draws")
    add("--top_p", type=float, default=1.0, help="draw from the likeliest tokens that together are as likely as this")
    shown = [text.replace("\n", "\\n") for text in stop]
    add("--stop", nargs="*", default=shown, metavar="TEXT", help="a text ends before these; \\n is the end of a line")
    add("--engine", choices=ENGINES, default="hf", help="what generates; vllm has to be installed, and draws otherwise")
    parser.switch("--generate_only", help="write the texts and stop")
    parser.switch("--overwrite", help="start anew where texts were generated with other settings")


def settings(args: argparse.Namespace, samples: int = 1) -> GenerationSettings:
    """Return the generation that the flags ask for.

    Raises:
        UserError: a value that means nothing.
    """
    stop = tuple(text.replace("\\n", "\n") for text in args.stop)
    return GenerationSettings(args.max_new_tokens, args.temperature, args.top_p, stop, args.seed, samples)


@dataclass(frozen=True)
class Asked:
    """What is to be generated, all of it checked.

    Args:
        args: the command line.
        subject: base and adapter.
        tokenizer: the base's.
        prompts: what texts follow.
        encoded: the same as tokens.
        settings: of the generation.
        context: most tokens of a prompt and its text together; None for no limit.
    """

    args: argparse.Namespace
    subject: command.Subject
    tokenizer: Any
    prompts: Sequence[Prompt]
    encoded: Sequence[Encoded]
    settings: GenerationSettings
    context: int | None

    def deciding(self) -> dict[str, Any]:
        """Return everything that decides which texts are generated; the batch size is not among it."""
        args, facts = self.args, {**self.subject.fingerprint(), **fingerprint(self.prompts)}
        return {**facts, "engine": args.engine, "bits": args.bits, "dtype": args.dtype, **self.settings.deciding()}


@dataclass(frozen=True)
class Produced:
    """The texts and what they cost; that of earlier runs which were interrupted is counted too.

    Args:
        texts: prompt by prompt, the samples of each together.
        prompt_tokens: tokens of all prompts.
        known: how many texts an earlier run had generated.
        model: what generated the others; None if it was vllm, or there was nothing left to do.
    """

    texts: list[Generated]
    prompt_tokens: int
    known: int
    model: Any

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
        found = self.metrics()
        ended = ", ".join(f"{count:,} by {name}" for name, count in found["ended"].items())
        speed = f"{found['tokens']:,} tokens in {found['generation_seconds']:.1f} s"
        return f"  {found['texts']:,} texts, ended {ended}; {speed} ({found['tokens_per_second']:,.0f} a second)"


def prepare(
    args: argparse.Namespace, subject: command.Subject, prompts: Sequence[Prompt], told: GenerationSettings
) -> Asked:
    """Find and check everything that can be known before a model is loaded.

    Raises:
        UserError: the first thing that would fail.
    """
    BatchSize(args.batch_size, 1)
    if args.engine == "vllm":
        require_vllm()
        if args.bits < 16:
            raise UserError(f"found --engine vllm with --bits {args.bits}; need 16 or 32 for it; leave out one of them")
    tokenizer, context = load_tokenizer(subject.base), command.room(args, subject)
    encoded = encode(tokenizer, prompts)
    require_room(encoded, told, context)
    return Asked(args, subject, tokenizer, prompts, encoded, told, context)


def produce(asked: Asked, name: str) -> Produced:
    """Generate what is missing; a model is loaded only if something is.

    Args:
        asked: what is to be generated.
        name: of the test, for the progress.

    Raises:
        UserError: texts of other settings lie there, or the model cannot be loaded or used.
    """
    store = TextStore(require_writable(Path(asked.args.output)), asked.deciding(), asked.args.overwrite)
    wanted = keys(len(asked.prompts), asked.settings)
    missing = [key for key in wanted if key not in store.found]
    logger.info("%s of %s texts are there already", f"{len(wanted) - len(missing):,}", f"{len(wanted):,}")
    model = _generate(asked, missing, store, Progress(name)) if missing else None
    texts = [store.found[key] for key in wanted]
    return Produced(texts, sum(item.length for item in asked.encoded), len(wanted) - len(missing), model)


def _generate(asked: Asked, missing: Sequence[Key], store: TextStore, listener: Progress) -> Any:
    args, subject = asked.args, asked.subject
    if args.engine == "vllm":
        there = VllmModel(subject.base, subject.adapter, "fp32" if args.bits == 32 else args.dtype, asked.context)
        names = [prompt.name for prompt in asked.prompts]
        generate_with_vllm(there, asked.encoded, names, asked.settings, missing, store, listener)
        return None
    model = command.load_model(args, subject)
    generate(model, asked.tokenizer, asked.prompts, asked.settings, args.batch_size, store, listener)
    return model
