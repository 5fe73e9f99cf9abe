"""The same search by CTranslate2, where it is installed: faster on a CPU, for GPT-2 in fp32.

Its options express upstream's beam, length, length penalty and repeated sequences. What they do not: with CTranslate2 a
beam that ends gives its place to the next best continuation at once, upstream leaves it empty for a step; and
CTranslate2 stops after `beam * patience` ended texts, upstream never does. So a text may be another than upstream's.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sharelora.evaluation.batching import Listener
from sharelora.evaluation.beam.decoding import Decoded, Keep
from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.support.errors import UserError

# Its own stop, and one that is never reached: with at most `beam` texts a step it would take more steps than there are.
OWN_STOP, NO_STOP = 1.0, 1e4
# Prompts at once: the fastest of 1, 4, 8 and 16.
_BATCH = 8
FAMILY = "gpt2"


def require(model_type: str, settings: BeamSettings, dtype: str) -> None:
    """Refuse what this engine cannot do, before anything is loaded.

    Args:
        model_type: of the base, in transformers' words.
        settings: of the search.
        dtype: as `--dtype`.

    Raises:
        UserError: it is not installed, or the model, the precision or a setting is not for it.
    """
    found = None
    if importlib.util.find_spec("ctranslate2") is None:
        found = "no such package; need it installed; pip install ctranslate2"
    elif model_type != FAMILY:
        found = f"a model of type {model_type!r}; need a GPT-2"
    elif dtype not in ("auto", "fp32"):
        found = f"--dtype {dtype}; need fp32"
    elif settings.repetition_penalty != 1:
        # There the prompt counts too.
        found = f"--repetition_penalty {settings.repetition_penalty}; need 1"
    if found:
        raise UserError(f"found --engine ctranslate2 and {found}, or leave out --engine")


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: BeamSettings,
    keep: Keep | None = None,
    listener: Listener | None = None,
) -> Decoded:
    """Search the best text for every prompt: as `sharelora.evaluation.beam.decode`, but it may end sooner.

    Args:
        model: a GPT-2 of transformers, with or without an adapter.
        prompts, settings, keep, listener: see there.
    """
    finished = 0

    def done(index: int, text: Hypothesis) -> None:
        nonlocal finished
        finished += 1
        if keep is not None:
            keep({index: text})
        if listener is not None:
            listener(finished, len(prompts), 0)

    with opened(model, settings.eos_ids[0], torch.get_num_threads()) as generator:
        best = search(generator, prompts, settings, OWN_STOP, done)
    return Decoded(tuple(best), sum(map(len, prompts)), None, _BATCH)


@contextmanager
def opened(model: Any, end: int, threads: int) -> Iterator[Any]:
    """Convert a GPT-2, its adapter merged, and open it in fp32, with a search on each thread.

    The library's converter wants a tokenizer for its vocabulary; here the tokens are the ids themselves.

    Args:
        model: a GPT-2 of transformers, with or without an adapter.
        end: its end token.
        threads: how many prompts are searched at the same time, in as many batches.
    """
    import ctranslate2
    from ctranslate2.converters.transformers import GPT2Loader

    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    spec = GPT2Loader().get_model_spec(model)
    spec.register_vocabulary([str(token) for token in range(model.config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = str(end)
    spec.validate()
    spec.optimize()
    with TemporaryDirectory() as place:
        folder = os.path.join(place, "model")
        os.mkdir(folder)
        spec.save(folder)
        yield ctranslate2.Generator(folder, compute_type="float32", inter_threads=threads, intra_threads=1)


def search(
    generator: Any,
    prompts: Sequence[Sequence[int]],
    settings: BeamSettings,
    patience: float,
    done: Callable[[int, Hypothesis], None] = lambda index, text: None,
) -> list[Hypothesis]:
    """Search the best text of every prompt.

    Prompts of a batch have the same length: of others it would read the longer part token by token, with all beams.

    Args:
        generator: as `opened` gives it.
        prompts: their tokens.
        settings: of upstream's search.
        patience: `OWN_STOP` or `NO_STOP`.
        done: called with the index of every prompt and its text.
    """
    options = {
        "beam_size": settings.beam,
        "patience": patience,
        "length_penalty": settings.length_penalty,
        "repetition_penalty": settings.repetition_penalty,
        "no_repeat_ngram_size": settings.no_repeat_ngram_size,
        "min_length": settings.min_length,
        "max_length": settings.eval_len,
        "end_token": list(settings.eos_ids),
        "return_end_token": True,
        "include_prompt_in_result": False,
        "return_scores": True,
    }
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    running: list[tuple[int, Any]] = []
    for _, group in groupby(order, key=lambda index: len(prompts[index])):
        same = list(group)
        for start in range(0, len(same), _BATCH):
            part = same[start : start + _BATCH]
            rows = [[str(token) for token in prompts[index]] for index in part]
            running += zip(part, generator.generate_batch(rows, asynchronous=True, **options), strict=True)
    texts: dict[int, Hypothesis] = {}
    for index, result in running:
        found = result.result()
        texts[index] = Hypothesis(tuple(found.sequences_ids[0]), found.scores[0])
        done(index, texts[index])
    return [text for _, text in sorted(texts.items())]
