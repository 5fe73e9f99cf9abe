"""All of HumanEval: every solution that comes with it passes, every broken one does not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxes import SMALL, left_processes, skip_without_bubblewrap

from sharelora.data.humaneval import CodeProblem, load_humaneval
from sharelora.sandbox import run_many

LIMITS = replace(SMALL, cpu_seconds=5, seconds=30)
pytestmark = [pytest.mark.realdata, pytest.mark.slow]

# Put behind a right solution: its function returns what is almost right.
ALMOST = """
_right = {name}

def {name}(*arguments):
    found = _right(*arguments)
    if found is None:
        return 0
    if isinstance(found, bool):
        return not found
    if isinstance(found, (int, float)):
        return found + 1
    if isinstance(found, dict):
        return {{**found, "x": 1}}
    return found + type(found)("x")
"""


@pytest.fixture
def tasks(shared_data: Path) -> list[CodeProblem]:
    """The 164 tasks."""
    skip_without_bubblewrap()
    return load_humaneval(shared_data)


def program(task: CodeProblem, body: str) -> tuple[str, str]:
    """A solution and its test, as `eval/humaneval.py` puts them together."""
    return task.program(body), task.check


def test_every_solution_passes(tasks: list[CodeProblem]) -> None:
    found = run_many([program(task, task.solution) for task in tasks], LIMITS)
    assert len(found) == 164
    assert [(task.task_id, one) for task, one in zip(tasks, found, strict=True) if not one.passed] == []
    assert left_processes() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [("    return None\n", "failed error"), ("    raise ValueError\n", "error"), ("    return (\n", "error")],
)
def test_no_empty_solution_passes(tasks: list[CodeProblem], body: str, status: str) -> None:
    found = run_many([program(task, body) for task in tasks], LIMITS)
    assert {one.status for one in found} <= set(status.split()), Counter(one.status for one in found)


def test_no_solution_that_is_almost_right_passes(tasks: list[CodeProblem]) -> None:
    broken = [program(task, task.solution + ALMOST.format(name=task.entry_point)) for task in tasks]
    found = run_many(broken, LIMITS)
    assert [task.task_id for task, one in zip(tasks, found, strict=True) if one.passed] == []
    assert Counter(one.status for one in found)["failed"] > 130, Counter(one.status for one in found)


# A wrong completion, with the helper of the prompt defined again so that the test would not see it.
AGAIN = {
    "HumanEval/32": "    return 0\n\n\ndef poly(xs, x):\n    return 0\n",
    "HumanEval/38": "    return s\n\n\ndef encode_cyclic(s):\n    return s\n",
    "HumanEval/50": "    return s\n\n\ndef encode_shift(s):\n    return s\n",
}


def test_a_helper_that_is_defined_again_decides_nothing(tasks: list[CodeProblem]) -> None:
    wrong = [(task, task.program(AGAIN[task.task_id])) for task in tasks if task.task_id in AGAIN]
    as_one_text = [(f"{source}\n{task.test}\ncheck({task.entry_point})\n", None) for task, source in wrong]
    assert [one.status for one in run_many(as_one_text, LIMITS)] == ["passed"] * 3
    assert [one.status for one in run_many([(source, task.check) for task, source in wrong], LIMITS)] == ["failed"] * 3
    task = next(task for task in tasks if task.task_id == "HumanEval/50")
    other = f"{task.solution}\n\ndef encode_shift(s, by):\n    return s\n"
    assert run_many([program(task, other)], LIMITS)[0].passed
