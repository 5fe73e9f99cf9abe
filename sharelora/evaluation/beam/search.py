"""The loop of the beam search, run by transformers' `generate`; `reference.reference_search` does it the slow way.

Its meaning is that of LoRA's gpt2_beam.py, which no setting of transformers' own beam search has: of all continuations
of all beams the best `beam` survive, those that end a text among them, so a text that ends leaves its place empty until
the next step; the best ended text is kept; after the last step the live beams compete with it. That search always takes
all steps. This one drops every beam that cannot win any more, which changes no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.beam.tree import BeamTree, read_rows
from sharelora.evaluation.key_value_cache import PromptReader, RowCache
from sharelora.models.head import head_on, last_position

# Entries of logits that a core's cache holds, and those of a block that `_largest` looks at as one.
_CACHED, _BLOCK = 2**18, 64


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
    tree: bool = False,
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
        tree: keep them as a tree, see `can_read_tree`; otherwise every beam has a row of its own.
        model_kwargs: what `generate` has prepared: mask, positions, an empty cache.
    """
    run = _Search(model, input_ids, search, model_kwargs, reader, tree)
    logits = run.read_prompts()
    while run.advance(logits_processor(run.ids, _for_sums(logits, input_ids.device))):
        logits = run.read_tokens()
    return run.result()


def _for_sums(logits: Tensor, device: torch.device) -> Tensor:
    # Processors may write into them, as nothing else reads them. 16 bits are too few for sums of log-probabilities.
    return logits.to(device, torch.promote_types(logits.dtype, torch.float32))


def _likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the likeliest tokens of each row, and these tokens, (rows, count) each."""
    # On a CPU a few rows at a time, which stay in its cache while they are read several times.
    rows = max(1, _CACHED // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    log_p, tokens = [], []
    for part in logits.split(rows):
        best, found = _largest(part, count)
        log_p.append(best - part.logsumexp(-1, keepdim=True))
        tokens.append(found)
    return torch.cat(log_p), torch.cat(tokens)


def _largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`topk` of every row; only blocks whose largest entry is among the largest can hold others of them."""
    blocks, device = logits.shape[1] // _BLOCK, logits.device
    if blocks < 4 * count:
        best, tokens = logits.topk(count)
        return best, tokens
    entries = logits[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))
    chosen = entries.amax(2).topk(count).indices[:, :, None]
    rest = torch.arange(blocks * _BLOCK, logits.shape[1], device=device).expand(len(logits), -1)
    found = torch.cat(((chosen * _BLOCK + torch.arange(_BLOCK, device=device)).flatten(1), rest), dim=1)
    best, indices = logits.gather(1, found).topk(count)
    return best, found.gather(1, indices)


class _Search:
    """The state of a search: the live beams of the prompts that are still open, and the best text of every prompt.

    Attributes:
        ids: the tokens of each live beam, its prompt first, (rows, T).
        scores: the sum of log-probabilities of each, (rows,).
        owner: the prompt of each among the open ones, (rows,), ascending.
        parents: its row one step before, (rows,).
        open: the prompts that are open, (open prompts,).
    """

    cache: RowCache | BeamTree

    def __init__(
        self,
        model: Any,
        input_ids: Tensor,
        search: BeamSettings,
        model_kwargs: dict[str, Any],
        reader: PromptReader | None,
        tree: bool,
    ) -> None:
        self.model, self.search, self.model_kwargs, self.reader = model, search, model_kwargs, reader
        prompts, self.prompt = input_ids.shape
        exact: dict[str, Any] = {"device": input_ids.device, "dtype": torch.promote_types(model.dtype, torch.float32)}
        self.ids, self.scores = input_ids, torch.zeros(prompts, **exact)
        self.open = torch.arange(prompts, device=input_ids.device)
        self.owner = self.parents = self.open
        # Of each open prompt; a model whose positions are relative takes none.
        self.mask = model_kwargs.get("attention_mask")
        positions = model_kwargs.get("position_ids")
        self.position = None if positions is None else positions[:, -1:].expand(prompts, 1)
        self.tree = tree and self.mask is not None and self.position is not None
        # A cache with a row for each beam moves far less where every prompt keeps all of its rows.
        self.drops = self.tree or reader is not None
        self.eos = torch.tensor(search.eos_ids, device=input_ids.device)
        self.best = torch.full((prompts,), -torch.inf, **exact)
        self.texts: list[tuple[int, ...]] = [()] * prompts
        self.tokens = 0

    @property
    def length(self) -> int:
        """The tokens of every live beam."""
        return self.ids.shape[1] - self.prompt

    def read_prompts(self) -> Tensor:
        """Return the logits after every prompt, (prompts, vocabulary)."""
        if self.reader is not None:
            return self._read_whole()
        with head_on(self.model, last_position):
            output = self.model(input_ids=self.ids, **{**self.model_kwargs, "use_cache": True})
        if self.tree:
            assert self.mask is not None
            self.cache = BeamTree(output.past_key_values, self.mask, self.search.beam)
        else:
            self.cache = RowCache(output.past_key_values, self.search.beam, self.search.eval_len - 1)
        logits: Tensor = output.logits[:, -1]
        return logits

    def read_tokens(self) -> Tensor:
        """Let the model read the last token of every live beam.

        Returns:
            The logits of the next ones, (rows, vocabulary).
        """
        if self.reader is not None:
            return self._read_whole()
        self.tokens += len(self.ids)
        positions = None if self.position is None else self.position[self.owner]
        if isinstance(self.cache, BeamTree):
            assert positions is not None
            self.cache.grow(self.parents, self.owner, self._places())
            return read_rows(self.model, self.cache, self.ids[:, -1], positions[:, 0])
        # In the cache a prompt has all of its rows from the start.
        self.cache.take(self.parents * self.search.beam + self._places() if self.length == 1 else self.parents)
        with head_on(self.model, last_position):
            output = self.model(
                input_ids=self.ids[:, -1:],
                attention_mask=None if self.mask is None else self.mask[self.owner],
                past_key_values=self.cache,
                use_cache=True,
                **({} if positions is None else {"position_ids": positions}),
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _read_whole(self) -> Tensor:
        """Return the logits after every row, which is read without the padding in front of it."""
        assert self.reader is not None and self.mask is not None, "`decode` gives both"
        lengths = self.mask.sum(1)[self.owner].tolist()
        rows = [ids[len(ids) - length :] for ids, length in zip(self.ids.tolist(), lengths, strict=True)]
        if self.length:
            self.tokens += sum(lengths)
        return self.reader.next_logits(rows)

    def _places(self) -> Tensor:
        """The place of each row among those of its prompt, (rows,)."""
        counts = torch.bincount(self.owner, minlength=len(self.open))
        return torch.arange(len(self.owner), device=self.owner.device) - (counts.cumsum(0) - counts)[self.owner]

    def advance(self, logits: Tensor) -> bool:
        """Take one step.

        Args:
            logits: (rows, vocabulary) after the processors.

        Returns:
            Whether a beam is left to continue.
        """
        scores, parents, tokens = self._continue(logits)
        ended = torch.isin(tokens, self.eos)
        ids = torch.cat((self.ids[parents], tokens[:, :, None]), dim=2)
        self._keep_best(ids, scores.masked_fill(~ended, -torch.inf))
        scores = scores.masked_fill(ended, -torch.inf)
        if ids.shape[2] - self.prompt == self.search.eval_len:
            # At the end the live beams compete too.
            self._keep_best(ids, scores)
            return False
        live = self._can_win(scores, ids.shape[2] - self.prompt)
        winnable = live.any(1)
        if not self.drops:
            live = winnable[:, None].expand_as(live)
        self.ids, self.scores, self.parents = ids[live], scores[live], parents[live]
        self.owner = live[winnable].nonzero()[:, 0]
        self.open = self.open[winnable]
        self.position = None if self.position is None else self.position[winnable] + 1
        if self.mask is not None:
            mask = self.mask[winnable]
            self.mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
        return len(self.ids) > 0

    def _continue(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the best continuations of all beams of each prompt.

        Returns:
            Their sums of log-probabilities, -inf where a prompt has fewer, the rows that they continue, and their
            tokens, (prompts, beam) each.
        """
        beam, places = self.search.beam, self._places()
        # Only the best of a row can be among the best of its prompt, so the whole vocabulary is never normalised.
        log_p, tokens = _likeliest(logits, beam)
        # A row without any allowed token gives -inf minus -inf, which is NaN.
        totals = (self.scores[:, None] + log_p).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        width = int(places.max()) + 1
        by_prompt = totals.new_full((len(self.open), width, beam), -torch.inf)
        by_prompt[self.owner, places] = totals
        rows = torch.zeros(len(self.open), width, dtype=torch.long, device=logits.device)
        rows[self.owner, places] = torch.arange(len(places), device=logits.device)
        scores, indices = by_prompt.flatten(1).topk(beam, dim=1)
        parents = rows.gather(1, indices // beam)
        return scores, parents, tokens[parents, indices % beam]

    def _keep_best(self, ids: Tensor, candidates: Tensor) -> None:
        """Compare texts with the best of their prompt so far; of equals the earlier one is kept.

        Args:
            ids: (prompts, beam, T).
            candidates: (prompts, beam) sums of log-probabilities, -inf for a beam that does not compete.
        """
        length = ids.shape[2] - self.prompt
        scores, beams = (candidates / length**self.search.length_penalty).max(dim=1)
        better = (scores > self.best[self.open]).nonzero()[:, 0]
        self.best[self.open[better]] = scores[better]
        rows = ids[better, beams[better], self.prompt :].tolist()
        for prompt, text in zip(self.open[better].tolist(), rows, strict=True):
            self.texts[prompt] = tuple(text)

    def _can_win(self, scores: Tensor, length: int) -> Tensor:
        """Whether beams can still become the best text of their prompt.

        Sums of log-probabilities only fall, so the best case is that nothing more is lost, at the length that the
        penalty favours most. Rounding keeps this order, so a beam that is dropped could not have changed the text. Nor
        could those that take its place: they would have come behind it, with a lower sum.

        Args:
            scores: (prompts, beam), the sums of texts that have not ended, -inf for no text.
            length: of each text.
        """
        penalty = self.search.length_penalty
        favoured = self.search.eval_len if penalty >= 0 else length + 1
        return scores / favoured**penalty > self.best[self.open][:, None]

    def result(self) -> SearchResult:
        best = zip(self.texts, self.best.tolist(), strict=True)
        return SearchResult(tuple(Hypothesis(ids, score) for ids, score in best), self.tokens)
