"""Rows as tokens: prompt and answer each by itself, cut to their limits without losing what matters.

A prompt that is too long first loses whole worked examples, from the first one on; if it is still too long, its middle.
The beginning (the instruction) and the end (the question, the marker after which the answer starts) stay. QLoRA cuts
the end, which loses exactly those; with GSM8K's worked examples it lost every question. An answer always ends with the
end token, also where it was cut. Where a model's positions end, a row that is longer first loses of its prompt, which
keeps half of the positions, and then of its answer. What was lost is counted, and reported with examples in one
warning.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sharelora.data.arguments import DataArguments
from sharelora.data.begin import begin_token, begun
from sharelora.data.context import Context
from sharelora.data.rows import Row, changed, place, summary
from sharelora.data.token_rows import TokenRows
from sharelora.support.errors import UserError

# Texts in one call of the tokenizer.
BATCH = 1000
# Cut rows that a report shows.
EXAMPLES = 3
# A tokenizer without a real limit states an astronomically large one.
_NO_LIMIT = 10**6
# What is left of a prompt must say something.
_LEAST_PROMPT = 2
_ANYTHING = Context()

Ids = list[int]


def padding_id(tokenizer: Any, context: Context = _ANYTHING) -> int:
    """The token that fills short rows: the tokenizer's own if the model has an embedding for it, else its end token.

    No token is added for it, so no embedding row is. Which one it is does not matter: masks are made from lengths.

    Args:
        tokenizer: a Hugging Face tokenizer.
        context: what the model knows.

    Raises:
        UserError: the tokenizer has neither.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None and (context.vocabulary is None or token_id < context.vocabulary):
            return int(token_id)
    raise UserError("this tokenizer has neither a padding token nor an end token; need one; set eos_token in it")


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[Ids]:
    """Tokenise texts as they are, without any special token."""
    ids: list[Ids] = []
    for start in range(0, len(texts), BATCH):
        batch = list(texts[start : start + BATCH])
        ids += tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return ids


def adds_space(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a space before every text by itself, as SentencePiece does."""
    first = tokenizer.convert_ids_to_tokens(token_ids(tokenizer, ["a"])[0][:1])
    return bool(first) and str(first[0]).startswith(("▁", "Ġ"))


def cut_middle(ids: Sequence[int], limit: int) -> Ids:
    """Keep the first and the last tokens, half of the limit each, the odd one at the end."""
    if len(ids) <= limit:
        return list(ids)
    head = limit // 2
    return [*ids[:head], *ids[len(ids) - (limit - head) :]]


class Encoder:
    """Tokenises the rows of one run.

    Args:
        tokenizer: a Hugging Face tokenizer; it is used as it is and never changed.
        args: lengths, and whether prompts count in the loss.
        demonstrations: worked examples before each prompt.
        render: row -> (source, target) text, for chat templates; by default `input` and `output`.
        context: what the model can read.
        new_tokens: most tokens that follow a prompt without its answer.

    Raises:
        UserError: the tokenizer has no end token, so a model could never learn to stop; or new tokens leave no room for
            a prompt.
    """

    def __init__(
        self,
        tokenizer: Any,
        args: DataArguments,
        demonstrations: tuple[str, ...] = (),
        render: Callable[[Row], tuple[str, str]] | None = None,
        context: Context = _ANYTHING,
        new_tokens: int = 0,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError("this tokenizer has no end token, so answers cannot end; need one; set eos_token in it")
        if context.most is not None and new_tokens + _LEAST_PROMPT > context.most:
            raise UserError(
                f"found --max_new_tokens {new_tokens}; the model has {context.most} positions, for prompt and answer "
                f"together; need at most {context.most - _LEAST_PROMPT}; lower it"
            )
        self.tokenizer, self.args, self.demonstrations, self.render = tokenizer, args, demonstrations, render
        self.context, self.new_tokens = context, new_tokens
        self.bos: Ids = begin_token(tokenizer)
        self.eos: int = tokenizer.eos_token_id
        self.adds_space = adds_space(tokenizer)

    def encode(self, rows: Sequence[Row], split: str, answers: bool = True) -> tuple[TokenRows, SplitReport]:
        """Tokenise rows.

        Args:
            rows: rows with `input` and `output`.
            split: its name in the report.
            answers: with the answers and labels; without, prompts and the rows themselves, for prediction.

        Returns:
            The tokens, and what had to be cut.

        Raises:
            UserError: a token without an embedding.
        """
        texts = [self._texts(row, answers) for row in rows]
        completions = token_ids(self.tokenizer, [target for _, target in texts]) if answers else []
        completions = [ids if ids[-1:] == [self.eos] else [*ids, self.eos] for ids in completions]
        limits = (self.args.source_max_len, self.args.target_max_len)
        # What a row has besides its prompt: its answer, or the one that will be generated.
        behind = [min(len(ids), limits[1]) for ids in completions] if answers else [self.new_tokens] * len(rows)
        rooms = [self._room(tokens, answers) for tokens in behind]
        prompts, full_lengths, dropped = self._prompts([source for source, _ in texts], rooms)
        sources = [self._cut_source(ids, room) for ids, room in zip(prompts, rooms, strict=True)]
        # Of two limits on an answer, the second is what the prompt has left of the positions.
        targets = (
            [
                self._cut_target(ids, min(limits[1], self.context.within(limits[1] + len(source)) - len(source)))
                for ids, source in zip(completions, sources, strict=True)
            ]
            if answers
            else [[]] * len(sources)
        )
        self.context.require_embeddings(
            self.tokenizer, map(list.__add__, sources, targets), f"{len(rows):,} {split} rows"
        )
        wanted = [min(len(ids), limits[0]) + tokens for ids, tokens in zip(prompts, behind, strict=True)]
        tokens = TokenRows(sources, targets, self.args.train_on_source, None if answers else list(rows))
        report = SplitReport(
            split,
            len(rows),
            *limits,
            sources_cut=sum(len(ids) > limits[0] for ids in prompts),
            targets_cut=sum(len(ids) > limits[1] for ids in completions),
            demonstrations_dropped=dropped,
            longest_source=max(full_lengths, default=0),
            longest_target=max(map(len, completions), default=0),
            longest_row=int(tokens.lengths.max(initial=0)),
            positions=self.context.tokens,
            table=self.context.table,
            beyond_positions=sum(map(self.context.too_long, wanted)),
            longest_wanted=max(wanted, default=0),
            examples=self._examples(rows, full_lengths, [len(ids) for ids in completions]),
        )
        return tokens, report

    def _room(self, behind: int, answers: bool) -> int:
        """Most tokens of a prompt, with so many behind it: an answer gives way to half of the positions, if it must."""
        limit, most = self.args.source_max_len, self.context.most
        if most is None:
            return limit
        return min(limit, max(most - behind, most // 2 if answers else 0))

    def _texts(self, row: Row, answers: bool) -> tuple[str, str]:
        if self.render is not None:
            return self.render(row if answers else changed(row, {"output": None}))
        target = str(row["output"]) if answers else ""
        return row["input"], target.removeprefix(" ") if self.adds_space else target

    def _prompts(self, texts: Sequence[str], rooms: Sequence[int]) -> tuple[list[Ids], list[int], int]:
        """Prompts with as many worked examples as fit.

        Args:
            texts: the prompts.
            rooms: most tokens of each.

        Returns:
            The prompts; their lengths with all examples; how many prompts lost some.
        """
        prompts = [self._begun(ids) for ids in token_ids(self.tokenizer, texts)]
        if not self.demonstrations:
            return prompts, [len(ids) for ids in prompts], 0
        sizes = [len(ids) for ids in token_ids(self.tokenizer, self.demonstrations)]
        full_lengths = [len(ids) + sum(sizes) for ids in prompts]
        shots = [self._fitting(len(ids), sizes, room) for ids, room in zip(prompts, rooms, strict=True)]
        pending = list(range(len(texts)))
        while pending:
            # The last examples stay: the first to be dropped is the first one.
            examples = ["".join(self.demonstrations[len(sizes) - shots[index] :]) for index in pending]
            whole = [example + texts[index] for example, index in zip(examples, pending, strict=True)]
            for index, ids in zip(pending, token_ids(self.tokenizer, whole), strict=True):
                prompts[index] = self._begun(ids)
            # Examples were measured by themselves; joined to their neighbours they can take a token more.
            pending = [index for index in pending if shots[index] and len(prompts[index]) > rooms[index]]
            for index in pending:
                shots[index] -= 1
        return prompts, full_lengths, sum(count < len(sizes) for count in shots)

    def _fitting(self, length: int, sizes: Sequence[int], room: int) -> int:
        """How many worked examples, counted from the last one, fit before a prompt of some length into some room."""
        totals = itertools.accumulate(reversed(sizes), initial=length)
        return max(0, sum(total <= room for total in totals) - 1)

    def _begun(self, ids: Ids) -> Ids:
        """Begin with the begin token, exactly once."""
        return begun(ids, self.bos)

    def _cut_source(self, ids: Ids, limit: int) -> Ids:
        start = len(self.bos) if ids[:1] == self.bos else 0
        return ids[:start] + cut_middle(ids[start:], limit - start)

    def _cut_target(self, ids: Ids, limit: int) -> Ids:
        return ids if len(ids) <= limit else [*ids[: limit - 1], self.eos]

    def _examples(self, rows: Sequence[Row], prompts: Sequence[int], answers: Sequence[int]) -> tuple[str, ...]:
        """The first rows that were cut, with their lengths before the cut."""
        cut = (
            f"e.g. {place(rows[index], index + 1)}, prompt of {prompt}, answer of {answer} tokens: "
            f"{summary(_distinctive(rows[index]))!r}"
            for index, (prompt, answer) in enumerate(itertools.zip_longest(prompts, answers, fillvalue=0))
            if prompt > self.args.source_max_len or answer > self.args.target_max_len
        )
        return tuple(itertools.islice(cut, EXAMPLES))


def _distinctive(row: Row) -> str:
    """The text that tells a row from others: most prompts begin alike."""
    return next(str(row[column]) for column in ("instruction", "question", "problem", "input") if column in row)


@dataclass(frozen=True)
class SplitReport:
    """What was cut of the rows of one split, lengths in tokens.

    Args:
        split: its name.
        rows: how many rows it has.
        source_limit: most tokens of a prompt.
        target_limit: most tokens of an answer, end token included.
        sources_cut: prompts that lost tokens in their middle.
        targets_cut: answers that lost their last tokens (never the end token).
        demonstrations_dropped: prompts that lost whole worked examples.
        longest_source: length of the longest prompt before any cut.
        longest_target: length of the longest answer before any cut, end token included.
        longest_row: length of the longest row as it is used.
        positions: most tokens of a row that the model has positions for; None if nothing limits them.
        table: whether the model fails beyond them, so that rows had to be cut.
        beyond_positions: rows with more, after the limits above, new tokens included.
        longest_wanted: length of the longest of those.
        examples: some of the cut rows.
    """

    split: str
    rows: int
    source_limit: int
    target_limit: int
    sources_cut: int = 0
    targets_cut: int = 0
    demonstrations_dropped: int = 0
    longest_source: int = 0
    longest_target: int = 0
    longest_row: int = 0
    positions: int | None = None
    table: bool = False
    beyond_positions: int = 0
    longest_wanted: int = 0
    examples: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One sentence for each thing that was lost."""
        losses = []
        if self.sources_cut:
            losses.append(
                f"{self._share(self.sources_cut)} prompts lost their middle: longer than source_max_len "
                f"{self.source_limit} (longest {self.longest_source}); raise --source_max_len"
            )
        if self.demonstrations_dropped:
            losses.append(
                f"{self._share(self.demonstrations_dropped)} prompts lost some of their worked examples to fit "
                f"source_max_len {self.source_limit}{self._positions()} (longest {self.longest_source}); raise "
                "--source_max_len or lower --few_shot"
            )
        if self.targets_cut:
            losses.append(
                f"{self._share(self.targets_cut)} answers lost their last tokens: longer than target_max_len "
                f"{self.target_limit} (longest {self.longest_target}); raise --target_max_len"
            )
        if self.beyond_positions:
            losses.append(f"{self._share(self.beyond_positions)} rows {self._fate()}")
        return [f"{self.split}: {line}" for line in losses] + [f"  {example}" for example in self.examples]

    def _positions(self) -> str:
        return f", or the {self.positions} positions of the model" if self.table else ""

    def _fate(self) -> str:
        """What became of rows beyond the model's positions."""
        longest = f"(longest {self.longest_wanted}, the answer included)"
        if self.table:
            return (
                f"were cut to the {self.positions} positions of the model {longest}: the middle of prompts first, then "
                "the end of answers; use a model with more positions, or shorter rows"
            )
        return (
            f"are longer than the {self.positions} positions that the model was made for {longest}; it reads them, but "
            "knows no such distances; lower --source_max_len, --target_max_len or --max_new_tokens"
        )

    def _share(self, count: int) -> str:
        return f"{count:,} of {self.rows:,} ({100 * count / self.rows:.1f} %)"


@dataclass(frozen=True)
class TruncationReport:
    """What was cut in each split.

    Args:
        splits: one report for each split that was encoded.
        context: the longest input that the tokenizer states for its model, or None; it counts only where the model
            itself states none.
    """

    splits: tuple[SplitReport, ...]
    context: int | None = None

    @classmethod
    def of(cls, splits: Sequence[SplitReport], model_max_length: int) -> TruncationReport:
        """Collect reports; a tokenizer's `model_max_length` counts only where it is a real one."""
        return cls(tuple(splits), model_max_length if model_max_length < _NO_LIMIT else None)

    def render(self) -> str:
        """The whole report as text, empty where nothing was lost."""
        lines = [line for part in self.splits for line in part.lines()]
        longest = max((part.longest_row for part in self.splits), default=0)
        stated = any(part.positions is not None for part in self.splits)
        if self.context is not None and longest > self.context and not stated:
            lines.append(
                f"rows of up to {longest} tokens are longer than the model's context of {self.context}; "
                "lower --source_max_len and --target_max_len"
            )
        return "\n".join(["TRUNCATED OR TOO LONG ROWS", *lines]) if lines else ""

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, for result files."""
        return {"context": self.context, "splits": [asdict(part) for part in self.splits]}
