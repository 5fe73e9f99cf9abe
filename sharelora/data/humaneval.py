"""HumanEval: functions to be completed, with a program that tests them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.code_answers import before_function, read_code
from sharelora.data.find import parse_split
from sharelora.data.registry import KNOWN
from sharelora.data.rows import BadCell, Row, cell, summary
from sharelora.support.errors import UserError

# Where a completion ends: the next thing that begins in the first column cannot belong to the function. The first five
# are those of Chen et al. 2021; decorators and the end of a Markdown block do not belong to it either.
STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\n@", "\n```")


@dataclass(frozen=True)
class CodeProblem:
    """One function to be completed.

    Args:
        task_id: e.g. `HumanEval/0`.
        prompt: imports, signature and docstring, as published.
        entry_point: the function's name.
        solution: the published body.
        test: defines `check`, which takes the function.
    """

    task_id: str
    prompt: str
    entry_point: str
    solution: str
    test: str

    def program(self, completion: str) -> str:
        """The whole program: the prompt and its completion."""
        return f"{self.prompt}{completion}\n"

    def read(self, answer: str) -> tuple[str, str]:
        """The whole program in an answer of any form, and the rule that has read it, see `code_answers.read_code`."""
        return read_code(answer, self.prompt, self.entry_point)

    @property
    def check(self) -> str:
        """The code that tests such a program: it ends without an error if the completion is right.

        Some tests call a helper that the prompt defines (`poly`, `encode_shift`). The test has its own copy, so that a
        completion which defines the helper again does not decide what it is tested with.
        """
        return f"{self._beginning}{self.test}\n\ncheck({self.entry_point})\n"

    @property
    def _beginning(self) -> str:
        """What the prompt has before its function; empty if that is no code by itself."""
        before = before_function(self.prompt, self.entry_point)
        try:
            ast.parse(before)
        except SyntaxError:
            return ""
        return before


def load_humaneval(root: str | Path | None = None) -> list[CodeProblem]:
    """Load the problems.

    Args:
        root: folder of local data with `humaneval/HumanEval.jsonl` (or .jsonl.gz), see `find.data_folder`.

    Raises:
        UserError: no data, a malformed row (file and row are named), or a problem that is there twice.
    """
    problems = parse_split(KNOWN["humaneval"], "test", _problem, root)
    ids: set[str] = set()
    for number, problem in enumerate(problems, 1):
        if problem.task_id in ids:
            raise UserError(
                f"found task {problem.task_id} again in row {number}; need every task once; repair the data"
            )
        ids.add(problem.task_id)
    return problems


def _problem(row: Row) -> CodeProblem:
    columns = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    problem = CodeProblem(*(cell(row, column) for column in columns))
    if not problem.entry_point.isidentifier() or f"def {problem.entry_point}(" not in problem.prompt:
        raise BadCell(f"no function '{summary(problem.entry_point)}' in column prompt")
    if "def check(" not in problem.test:
        raise BadCell("no function 'check' in column test")
    return problem
