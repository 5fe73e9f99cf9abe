"""CTranslate2's beam search on the same weights and prompts: the library that decodes such models fastest elsewhere.

Its options express upstream's beam, length, length penalty and repeated sequences. What they do not: with CTranslate2 a
beam that ends gives its place to the next best continuation at once, upstream leaves it empty for a step; and
CTranslate2 stops after `beam * patience` ended texts, upstream never does.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness.packages import unpack
from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.beam.settings import BeamSettings

REQUIREMENT = "ctranslate2==4.8.5"
# Its own stop, and one that is never reached: with at most `beam` texts a step it would take more steps than there are.
OWN_STOP, NO_STOP = 1.0, 1e4
# Prompts at once: the fastest of 1, 4, 8 and 16.
_BATCH = 8


def load_library(folder: Path) -> Any:
    """Import the package from a folder of its own, into which it is unpacked once.

    Raises:
        UserError: the package index is out of reach.
    """
    if not folder.is_dir():
        unpack([REQUIREMENT], folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    import ctranslate2

    return ctranslate2


@contextmanager
def generator(library: Any, model: Any, end: int, threads: int) -> Iterator[Any]:
    """Convert a GPT-2, its adapter merged, and open it in fp32, with a search on each thread.

    The library's converter wants a tokenizer for its vocabulary; here the tokens are the ids themselves.

    Args:
        library: as `load_library` returns it.
        model: a GPT-2 of transformers, with or without an adapter.
        end: its end token.
        threads: how many prompts are searched at the same time, in as many batches.
    """
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
        yield library.Generator(folder, compute_type="float32", inter_threads=threads, intra_threads=1)


def search(opened: Any, prompts: Sequence[Sequence[int]], settings: BeamSettings, patience: float) -> list[Hypothesis]:
    """Search the best text of every prompt.

    Prompts of a batch have the same length: of others it would read the longer part token by token, with all beams.

    Args:
        opened: as `generator` gives it.
        prompts: their tokens.
        settings: of upstream's search.
        patience: `OWN_STOP` or `NO_STOP`.
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
            running += zip(part, opened.generate_batch(rows, asynchronous=True, **options), strict=True)
    results = {index: result.result() for index, result in running}
    return [Hypothesis(tuple(found.sequences_ids[0]), found.scores[0]) for _, found in sorted(results.items())]
