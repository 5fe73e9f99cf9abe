"""The loop of the beam search, run by transformers' `generate`; `reference.reference_search` does it the slow way.

Its meaning is that of LoRA's gpt2_beam.py, which no setting of transformers' own beam search has: of all continuations
of all beams the best `beam` survive, those that end a text among them, so a text that ends leaves its place empty until
the next step; the best ended text is kept; after the last step the live beams compete with it. That search always takes
all steps. This one closes a prompt as soon as no live beam can win any more, which changes no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.key_value_cache import PromptReader, RowCache
from sharelora.models.head import head_on, last_position


@dataclass(frozen=True)
class Hypothesis:
    """The best text for a prompt.

    Args:
        ids: its tokens, the end token included if it has one.
        score: (sum of log p) / len(ids) ** length_penalty.
    """

    ids: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class SearchResult:
    """The texts of a batch of prompts.

    Args:
        best: one text per prompt.
        tokens: how many tokens of beams the model has read, which is what a search costs.
    """

    best: tuple[Hypothesis, ...]
    tokens: int


@torch.no_grad()
def beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    search: BeamSettings,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    reader: PromptReader | None = None,
    **model_kwargs: Any,
) -> SearchResult:
    """Search the best text for every prompt: the `custom_generate` of transformers' `generate`.

    Args:
        model: a causal language model.
        input_ids: prompts padded on the left, (B, T).
        logits_processor: changes logits before they become probabilities.
        search: the settings.
        stopping_criteria: unused; the settings say when a text ends.
        generation_config: also unused.
        reader: reads all of every beam again for every token, of a model that cannot continue from a cache; None keeps
            keys and values.
        model_kwargs: what `generate` has prepared: mask, positions, an empty cache.
    """
    run = _Search(model, input_ids, search, model_kwargs, reader)
    logits = run.read_prompts()
    for step in range(1, search.eval_len + 1):
        rows = run.advance(logits_processor(run.sequences, _for_sums(logits, input_ids.device)))
        if step == search.eval_len:
            run.keep_live()
        elif len(rows):
            logits = run.read_tokens(rows)
        else:
            break
    return run.result()


def _for_sums(logits: Tensor, device: torch.device) -> Tensor:
    # Processors may write into them, as nothing else reads them. 16 bits are too few for sums of log-probabilities.
    return logits.to(device, torch.promote_types(logits.dtype, torch.float32))


class _Search:
    """The state of a search: the live beams of the prompts that are still open, and the best text of every prompt."""

    cache: RowCache

    def __init__(
        self,
        model: Any,
        input_ids: Tensor,
        search: BeamSettings,
        model_kwargs: dict[str, Any],
        reader: PromptReader | None,
    ) -> None:
        self.model, self.search, self.model_kwargs, self.reader = model, search, model_kwargs, reader
        prompts, self.prompt = input_ids.shape
        exact: dict[str, Any] = {"device": input_ids.device, "dtype": torch.promote_types(model.dtype, torch.float32)}
        # One row per prompt until the prompts are read, then `beam`; mask and position always one per prompt.
        self.sequences, self.scores = input_ids, torch.zeros(prompts, 1, **exact)
        self.mask = model_kwargs.get("attention_mask")
        # A model whose positions are relative takes none.
        positions = model_kwargs.get("position_ids")
        self.position = None if positions is None else positions[:, -1:].expand(prompts, 1)
        self.eos = torch.tensor(search.eos_ids, device=input_ids.device)
        self.open = torch.arange(prompts, device=input_ids.device)
        self.best = torch.full((prompts,), -torch.inf, **exact)
        self.texts: list[tuple[int, ...]] = [()] * prompts
        self.tokens = 0

    @property
    def length(self) -> int:
        """The tokens of every live beam."""
        return self.sequences.shape[1] - self.prompt

    def read_prompts(self) -> Tensor:
        """Return the logits after every prompt, (prompts, vocabulary)."""
        if self.reader is not None:
            return self._read_whole(1)
        with head_on(self.model, last_position):
            output = self.model(input_ids=self.sequences, **{**self.model_kwargs, "use_cache": True})
        self.cache = RowCache(output.past_key_values, self.search.beam, self.search.eval_len - 1)
        logits: Tensor = output.logits[:, -1]
        return logits

    def read_tokens(self, rows: Tensor) -> Tensor:
        """Let the model read the last token of every live beam.

        Args:
            rows: of the cache, with which it continues.

        Returns:
            The logits of the next ones, (rows, vocabulary).
        """
        beam = self.search.beam
        if self.reader is not None:
            return self._read_whole(beam)
        self.tokens += len(self.sequences)
        self.cache.take(rows)
        positions = {} if self.position is None else {"position_ids": self.position.repeat_interleave(beam, dim=0)}
        with head_on(self.model, last_position):
            output = self.model(
                input_ids=self.sequences[:, -1:],
                attention_mask=None if self.mask is None else self.mask.repeat_interleave(beam, dim=0),
                past_key_values=self.cache,
                use_cache=True,
                **positions,
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _read_whole(self, beams: int) -> Tensor:
        """Return the logits after every row, of which each prompt has so many, without the padding in front of it."""
        assert self.reader is not None and self.mask is not None, "`decode` gives both"
        lengths = self.mask.sum(1).repeat_interleave(beams).tolist()
        rows = [ids[len(ids) - length :] for ids, length in zip(self.sequences.tolist(), lengths, strict=True)]
        if self.length:
            self.tokens += sum(lengths)
        return self.reader.next_logits(rows)

    def advance(self, logits: Tensor) -> Tensor:
        """Take one step.

        Args:
            logits: (rows, vocabulary) after the processors.

        Returns:
            The rows of the cache to continue with, `beam` for each prompt that is still open.
        """
        parents, tokens = self._continue(logits)
        self._extend(parents, tokens)
        ended = torch.isin(tokens, self.eos)
        self._keep_best(self.scores.masked_fill(~ended, -torch.inf))
        self.scores = self.scores.masked_fill(ended, -torch.inf)
        return self._close(parents)

    def keep_live(self) -> None:
        """Let the live beams compete too."""
        self._keep_best(self.scores)

    def _continue(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the best continuations of all beams of each prompt: their beams and tokens, (prompts, beam)."""
        beam, prompts = self.search.beam, len(self.scores)
        # Only the best of a row can be among the best of its prompt, so the whole vocabulary is never normalised.
        best, tokens = logits.topk(beam, dim=-1)
        log_p = (best - logits.logsumexp(-1, keepdim=True)).view(prompts, -1, beam)
        # A row without any allowed token gives -inf minus -inf, which is NaN.
        totals = (self.scores[:, :, None] + log_p).flatten(1).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        self.scores, indices = totals.topk(beam, dim=-1)
        return indices // beam, tokens.view(prompts, -1).gather(1, indices)

    def _extend(self, parents: Tensor, tokens: Tensor) -> None:
        before = self._by_prompt()
        surviving = before.gather(1, parents[:, :, None].expand(-1, -1, before.shape[2]))
        self.sequences = torch.cat((surviving, tokens[:, :, None]), dim=2).flatten(0, 1)

    def _by_prompt(self) -> Tensor:
        rows = self.search.beam if self.length else 1
        return self.sequences.view(len(self.open), rows, self.sequences.shape[1])

    def _keep_best(self, candidates: Tensor) -> None:
        """Compare texts with the best of their prompt so far; of equals the earlier one is kept.

        Args:
            candidates: (prompts, beam) sums of log-probabilities, -inf for a beam that does not compete.
        """
        scores, beams = (candidates / self.length**self.search.length_penalty).max(dim=1)
        better = (scores > self.best[self.open]).nonzero()[:, 0]
        self.best[self.open[better]] = scores[better]
        rows = self._by_prompt()[better, beams[better], self.prompt :].tolist()
        for prompt, ids in zip(self.open[better].tolist(), rows, strict=True):
            self.texts[prompt] = tuple(ids)

    def _close(self, parents: Tensor) -> Tensor:
        """Close prompts whose live beams can no longer win; return the rows that the others continue with."""
        winnable = self._bound() > self.best[self.open]
        first = torch.arange(len(parents), device=parents.device)[:, None] * self.search.beam
        rows = (first + parents)[winnable].flatten()
        self.sequences = self._by_prompt()[winnable].flatten(0, 1)
        self.scores, self.open = self.scores[winnable], self.open[winnable]
        self.position = None if self.position is None else self.position[winnable] + 1
        if self.mask is not None:
            mask = self.mask[winnable]
            self.mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
        return rows

    def _bound(self) -> Tensor:
        """The highest score that any live beam of a prompt can still reach, (prompts,).

        Sums of log-probabilities only fall, so the best case is that nothing more is lost, at the length that the
        penalty favours most. Rounding keeps this order, so a prompt that is closed could not have changed its text.
        """
        penalty = self.search.length_penalty
        favoured = self.search.eval_len if penalty >= 0 else min(self.length + 1, self.search.eval_len)
        return self.scores.amax(dim=1) / favoured**penalty

    def result(self) -> SearchResult:
        best = zip(self.texts, self.best.tolist(), strict=True)
        return SearchResult(tuple(Hypothesis(ids, score) for ids, score in best), self.tokens)
