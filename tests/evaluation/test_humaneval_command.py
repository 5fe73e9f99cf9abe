"""The HumanEval command: samples, their programs and what comes of them. No generated program is executed here.

The sandbox is a stand-in that looks at a program's text, but for two fixed programs, written here.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from commands import Score, load_command, read_output, write_rows
from sandboxes import skip_without_bubblewrap
from toy import make_model, make_tokenizer

from sharelora import sandbox
from sharelora.data.humaneval import STOP, CodeProblem, load_humaneval
from sharelora.evaluation.code_samples import Sample
from sharelora.evaluation.generation.settings import GenerationSettings
from sharelora.evaluation.humaneval import HumanEvalReport, table, write_prompts
from sharelora.evaluation.programs import OutcomeStore, Program, digest, judge
from sharelora.evaluation.reference import generate_one_by_one
from sharelora.evaluation.subject import Subject
from sharelora.metrics.pass_at_k import pass_at_k
from sharelora.models.load import load_base, load_tokenizer
from sharelora.sandbox import BUBBLEWRAP, RLIMITS, Limits, Outcome
from sharelora.support.errors import UserError, run_main

main = load_command("humaneval").main
RIGHT, WRONG = "    return x + 1\n", "    return x + 2\n"
SHORT = ("--max_new_tokens", "6")


def make_row(number: int) -> dict[str, str]:
    return {
        "task_id": f"Toy/{number}",
        "prompt": f'def add_{number}(x):\n    """Add {number} to x."""\n',
        "entry_point": f"add_{number}",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(3) == {number + 3}\n",
    }


TASKS = [CodeProblem(*make_row(number).values()) for number in range(4)]


PASSED, FAILED = Outcome(True, "passed", "", 0.1), Outcome(False, "failed", "AssertionError", 0.1)
UNJUDGED = Outcome(False, "unjudged", "a value of type function", 0.1)
CONDITIONS = {"seconds": 1.0}


class StandIn:
    """Passes programs that hold a certain text, and notes what it was given."""

    def __init__(self, text: str = "return x + 1\n") -> None:
        self.text, self.seen, self.where = text, [], set()
        self.passes = lambda source: self.text in source

    def __call__(self, program: Program) -> Outcome:
        self.seen.append(program)
        return PASSED if self.passes(program.source) else FAILED

    def run_program(self, source: str, test: str, limits: Limits, mode: str) -> Outcome:
        self.where.add((limits.seconds, limits.cpu_seconds, mode))
        return self(Program(source, test))


def write_data(folder: Path, content: list[dict[str, Any]] | None = None) -> Path:
    found = [make_row(number) for number in range(4)] if content is None else content
    write_rows(folder / "humaneval" / "HumanEval.jsonl", found)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Something in the sandbox's place."""
    found = StandIn()
    monkeypatch.setattr(sandbox, "run_program", found.run_program)
    monkeypatch.setattr(sandbox, "require_sandbox", lambda mode: None)
    return found


@pytest.fixture
def go(data: Path, model: Path, out: Path) -> Score:
    """Run the command with more flags; returns the result, if there is one, and the records."""

    def run(*flags: str, base: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        named = ["--model", str(model)] if base else []
        main(["--output", str(out), "--data_root", str(data), *named, *SHORT, *flags])
        return read_output(out, "samples.jsonl" if "--generate_only" in flags else "predictions.jsonl")

    return run


def samples_file(folder: Path, completions: dict[str, list[str]]) -> Path:
    path = folder / "samples.jsonl"
    rows = [{"task_id": name, "completion": text} for name, texts in completions.items() for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Programs


@pytest.mark.parametrize(("completion", "code"), [(RIGHT, 0), (WRONG, 1)])
def test_a_program_ends_well_if_its_completion_is_right(completion: str, code: int) -> None:
    source, test = TASKS[1].program(completion), TASKS[1].check
    assert source == TASKS[1].prompt + completion + "\n" and test.endswith("check(add_1)\n")
    words = [sys.executable, "-I", "-c", source + test]
    assert subprocess.run(words, capture_output=True, timeout=60).returncode == code


def test_equal_programs_are_run_once_and_outcomes_stay_in_order() -> None:
    run = StandIn("good")
    programs = [Program(name, "test") for name in ("good 1", "bad", "good 1", "good 2", "bad")]
    seen: list[tuple[int, int, int]] = []
    found = judge(programs, run, CONDITIONS, 3, listener=lambda *values: seen.append(values))
    assert [outcome.passed for outcome in found] == [True, False, True, True, False] and found[1] == FAILED
    assert sorted(program.source for program in run.seen) == ["bad", "good 1", "good 2"]
    assert seen == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]


def test_several_programs_run_at_once() -> None:
    both = threading.Barrier(2, timeout=30)

    def run(program: Program) -> Outcome:
        both.wait()
        return PASSED

    assert len(judge([Program("a", ""), Program("b", "")], run, CONDITIONS, 2)) == 2


def test_an_interrupted_test_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    programs = [Program(f"program {n}", "") for n in range(6)]

    def run(program: Program) -> Outcome:
        if program.source == "program 3":
            raise KeyboardInterrupt
        return PASSED

    with pytest.raises(KeyboardInterrupt):
        judge(programs, run, CONDITIONS, 1, OutcomeStore(tmp_path))
    kept = OutcomeStore(tmp_path)
    assert set(kept.results) == {digest(program, CONDITIONS) for program in programs[:3]}
    again = StandIn()
    assert len(judge(programs, again, CONDITIONS, 1, kept)) == 6 and again.seen == programs[3:]
    for changed in ({"seconds": 2.0}, {"seconds": 1.0, "sandbox": RLIMITS}):
        again.seen.clear()
        judge(programs[:1], again, changed, 1, OutcomeStore(tmp_path))
        assert again.seen == programs[:1], "under other conditions a program may come to another end"


def test_the_same_program_under_another_test_is_another() -> None:
    assert digest(Program("a", "b"), CONDITIONS) != digest(Program("a", "c"), CONDITIONS)
    assert digest(Program("a", "b"), CONDITIONS) != digest(Program("ab", ""), CONDITIONS)


def test_a_failing_sandbox_is_no_failing_program() -> None:
    def run(program: Program) -> Outcome:
        raise UserError("the sandbox cannot be started")

    with pytest.raises(UserError, match="the sandbox cannot be started"):
        judge([Program("a", ""), Program("b", "")], run, CONDITIONS, 2)


# What it generates and writes


def test_the_samples_are_those_of_the_prompts(go: Score, model: Path, stand_in: StandIn) -> None:
    result, found = go("--samples", "3", "--temperature", "0.8", "--top_p", "0.95", "--k", "1", "3")
    settings = GenerationSettings(6, 0.8, 0.95, STOP, samples=3)
    texts = generate_one_by_one(load_base(str(model)), load_tokenizer(str(model)), write_prompts(TASKS), settings, ())
    assert [row["completion"] for row in found] == [text.text for text in texts]
    assert [(row["task_id"], row["sample"]) for row in found] == [(f"Toy/{n}", s) for n in range(4) for s in range(3)]
    assert {(row["passed"], row["status"], row["detail"]) for row in found} == {(False, "failed", "AssertionError")}
    tried = ((TASKS[place // 3], text.text) for place, text in enumerate(texts))
    assert set(stand_in.seen) == {Program(task.program(text), task.check) for task, text in tried}
    assert stand_in.where == {(3.0, 3, BUBBLEWRAP)}
    metrics = result["metrics"]
    assert result["kind"] == "humaneval" and (metrics["pass@1"], metrics["pass@3"], metrics["passed"]) == (0, 0, 0)
    assert metrics["samples"] == metrics["texts"] == 12 and metrics["task_count"] == 4
    assert metrics["statuses"] == {"failed": 12} and metrics["tokens_per_second"] > 0


def test_generation_and_testing_can_be_two_runs(
    go: Score, out: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--samples", "2", "--temperature", "1")
    result, found = go(*flags, "--generate_only", "true")
    assert result == {} and stand_in.seen == [] and len(found) == 8 and "passed" not in found[0]
    assert "nothing was executed" in capsys.readouterr().out
    head, *lines = (out / "generations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [{**row, "text": RIGHT if (row["prompt"], row["sample"]) in ((1, 0), (2, 1)) else WRONG} for row in rows]
    (out / "generations.jsonl").write_text("\n".join([head, *map(json.dumps, rows)]) + "\n")
    monkeypatch.setattr(Subject, "load", lambda *_: pytest.fail("the model was loaded"))
    result, found = go(*flags, "--k", "1", "2")
    metrics = result["metrics"]
    assert [row["passed"] for row in found] == [False, False, True, False, False, True, False, False]
    assert metrics["pass@1"] == 0.25 and metrics["pass@2"] == 0.5 and metrics["texts_found_before"] == 8
    assert metrics["tasks"]["Toy/1"] == {"samples": 2, "passed": 1, "pass@1": 0.5, "pass@2": 1.0}
    assert metrics["generation_seconds"] > 0
    count = len(stand_in.seen)
    assert go(*flags, "--k", "1", "2")[1] == found and len(stand_in.seen) == count
    assert "pass@2" in capsys.readouterr().out


def test_more_samples_are_added_to_those_that_are_there(go: Score, stand_in: StandIn) -> None:
    flags = ("--temperature", "1", "--seed", "2")
    one, three = go(*flags)[1], go(*flags, "--samples", "3")
    assert [row["completion"] for row in three[1]][::3] == [row["completion"] for row in one]
    assert three[0]["metrics"]["texts_found_before"] == 4


def test_samples_of_a_file_are_tested_without_a_model(go: Score, tmp_path: Path, stand_in: StandIn) -> None:
    texts = {"Toy/0": [RIGHT, WRONG, WRONG], "Toy/2": [WRONG, WRONG], "Toy/1": [RIGHT, RIGHT], "Toy/3": [WRONG, RIGHT]}
    path = samples_file(tmp_path, texts)
    result, found = go("--samples_file", str(path), "--k", "2", base=False)
    metrics = result["metrics"]
    expected = [pass_at_k(3, 1, 2), 0.0, 1.0, 1.0]
    assert metrics["pass@2"] == pytest.approx(sum(expected) / 4) and "tokens" not in metrics
    assert [row["task_id"] for row in found] == [name for name, each in texts.items() for _ in each]
    assert result["model"] is None and len(stand_in.seen) == 6, "each program once"
    records = tmp_path / "out" / "predictions.jsonl"
    go("--samples_file", str(records), "--k", "2", "--output", str(tmp_path / "again"), base=False)
    assert json.loads((tmp_path / "again" / "result.json").read_text())["metrics"]["pass@2"] == metrics["pass@2"]


def test_samples_of_tasks_that_were_not_chosen_are_left_out_aloud(
    go: Score, tmp_path: Path, stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    path = samples_file(tmp_path, {f"Toy/{n}": [RIGHT, WRONG] for n in range(4)})
    result, _ = go("--samples_file", str(path), "--limit", "3", base=False)
    assert result["metrics"]["task_count"] == 3
    assert "2 samples of tasks that are not among the 3 chosen are LEFT OUT" in caplog.text


def test_pass_at_k_is_the_mean_over_tasks() -> None:
    samples = [Sample(task, str(n)) for task in TASKS[:2] for n in range(3)]
    outcomes = [PASSED if passed else FAILED for passed in (True, False, False, True, True, False)]
    metrics = HumanEvalReport(samples, outcomes, outcomes, [2, 1, 2]).metrics()
    assert metrics["pass@1"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert metrics["pass@2"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["pass@1_stderr"] == pytest.approx(((1 / 6) ** 2 * 2 / 2) ** 0.5)


def test_an_answer_in_any_form_is_scored_beside_the_published_score(
    go: Score, tmp_path: Path, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    function = f"def add_1(x):\n{RIGHT}"
    answers = [RIGHT, f"Here is the code:\n```python\n{function}```", f"```\n{WRONG}```", f"So:\n{function}", ""]
    path = samples_file(tmp_path, {"Toy/1": answers, "Toy/0": [WRONG], "Toy/2": [WRONG], "Toy/3": [WRONG]})
    # The stand-in's sandbox passes what holds the right line; here only a program that Python can read does.
    stand_in.passes = lambda source: stand_in.text in source and "Here is" not in source and "So:" not in source
    result, found = go("--samples_file", str(path), base=False)
    metrics = result["metrics"]
    assert (metrics["pass@1"], metrics["pass@1_any"]) == (0.2 / 4, 0.6 / 4)
    assert (metrics["passed"], metrics["passed_any"]) == (1, 3)
    assert metrics["read_by"] == {
        "whole": 4,
        "body": 0,
        "function": 1,
        "block_function": 1,
        "block_body": 1,
        "none": 1,
    }
    assert [row["read_by"] for row in found][:5] == ["whole", "block_function", "block_body", "function", "none"]
    assert [row["passed"] for row in found][:5] == [True, False, False, False, False]
    assert [row["passed_any"] for row in found][:5] == [True, True, False, True, False]
    assert found[1]["status"] == "failed" and found[1]["status_any"] == "passed"
    shown = capsys.readouterr().out
    assert "pass@1 in any form    0.1500 ±" in shown
    assert "read in any form: 4 whole, 0 body, 1 function, 1 block_function, 1 block_body, 1 none" in shown


def test_a_score_in_any_form_has_a_name_of_its_own() -> None:
    samples = [Sample(TASKS[0], "```\nx\n```"), Sample(TASKS[0], RIGHT)]
    metrics = HumanEvalReport(samples, [FAILED, FAILED], [PASSED, FAILED], [1]).metrics()
    assert (metrics["pass@1"], metrics["pass@1_any"]) == (0.0, 0.5)
    assert "  pass@1                0.0000\n  pass@1 in any form    0.5000\n" in table(metrics)
    assert (metrics["not_judged"], metrics["not_judged_any"]) == (0, 0) and "JUDGED" not in table(metrics)
    assert not any("at_most" in name for name in metrics)


def test_samples_that_are_not_judged_are_counted_as_such() -> None:
    samples = [Sample(task, RIGHT) for task in TASKS]
    outcomes = [PASSED, FAILED, UNJUDGED, UNJUDGED]
    metrics = HumanEvalReport(samples, outcomes, [PASSED] * 4, [1]).metrics()
    assert (metrics["pass@1"], metrics["pass@1_at_most"], metrics["not_judged"]) == (0.25, 0.75, 2)
    assert metrics["statuses"]["unjudged"] == 2 and "pass@1_any_at_most" not in metrics
    shown = table(metrics)
    assert "pass@1 at most        0.7500 ±" in shown and "NOT JUDGED: 2; in any form 0;" in shown


# What it refuses


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--samples", "0"), "--samples: found .0.; need a whole number of at least 1"),
        (("--samples", "3"), "found --samples 3 with --temperature 0"),
        (
            ("--samples", "3", "--temperature", "1", "--k", "1", "5"),
            r"found --k 5 with 3 samples of a task \(--samples\)",
        ),
        (("--k", "0"), "--k"),
        (("--k",), "--k"),
        (("--seconds", "0"), "found --seconds 0.0; need a number above 0"),
        (("--seconds", "inf"), "--seconds: found .inf.; need a finite number"),
        (("--workers", "0"), "--workers"),
        (("--temperature", "-1"), "found --temperature -1.0"),
        (("--top_p", "1.5"), "found --top_p 1.5"),
        (("--stop", ""), "found --stop"),
        (("--engine", "other"), "--engine"),
        (("--max_length", "30"), "found 4 of 4 prompts with more than 24 tokens"),
        (("--generate_only", "--samples_file", "x"), "found --generate_only with --samples_file"),
        (("--samples_file", "nowhere.jsonl"), "found no file nowhere.jsonl; need samples to score"),
        (
            ("--data_root", "nowhere"),
            "no data set humaneval for test in nowhere: looked for humaneval/HumanEval, humaneval/test as .jsonl",
        ),
        (("--sample", "3"), "did you mean --samples"),
    ],
)
def test_bad_input(
    go: Score, out: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(Subject, "load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=message):
        go(*flags)
    assert not out.exists() and stand_in.seen == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"entry_point": "sub_1"}, "row 2: no function 'sub_1' in column prompt"),
        ({"entry_point": "add_1(x):\n    pass\n#"}, "row 2: no function"),
        ({"test": "assert add_1(1) == 2"}, "row 2: no function 'check' in column test"),
        ({"prompt": None}, "row 2: nothing in column prompt"),
        ({"task_id": "Toy/0"}, "found task Toy/0 again in row 2"),
    ],
)
def test_a_malformed_task_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    folder = write_data(tmp_path, [make_row(0), {**make_row(1), **changed}])
    with pytest.raises(UserError, match=message):
        load_humaneval(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task_id": "Toy/9", "completion": ""}', "row 5: the unknown task_id 'Toy/9'"),
        ('{"task_id": "Toy/1"}', "row 5: nothing in column completion"),
        ('{"task_id": "Toy/1", "completion": "\\ud800"}', "half of a character .* in line 5, column completion"),
        ('{"task_id": "Toy/1", "comp', "has a damaged line 5"),
    ],
)
def test_a_malformed_sample_is_named(go: Score, tmp_path: Path, stand_in: StandIn, line: str, message: str) -> None:
    path = samples_file(tmp_path, {f"Toy/{n}": [RIGHT] for n in range(4)})
    with open(path, "a") as handle:
        handle.write(line + "\n")
    with pytest.raises(UserError, match=f"samples.jsonl.*{message}"):
        go("--samples_file", str(path), base=False)


def test_too_few_samples_in_a_file_are_refused(go: Score, tmp_path: Path, stand_in: StandIn) -> None:
    path = samples_file(tmp_path, {"Toy/0": [RIGHT], "Toy/1": [RIGHT, WRONG], "Toy/2": [RIGHT, WRONG]})
    with pytest.raises(UserError, match=r"found no samples of 1 of 4 tasks in .*, first Toy/3"):
        go("--samples_file", str(path), base=False)
    path = samples_file(tmp_path, {f"Toy/{n}": [RIGHT] * (1 + n) for n in range(4)})
    with pytest.raises(UserError, match=r"found --k 2 with 1 samples of a task \(.*samples.jsonl\)"):
        go("--samples_file", str(path), "--k", "2", base=False)


def test_without_a_sandbox_nothing_is_generated_in_vain(go: Score, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"found no program bwrap; need bubblewrap .*, or accept a weaker sandbox"):
        go()
    assert not out.exists()
    assert len(go("--generate_only")[1]) == 4


def test_the_weaker_sandbox_must_be_asked_for(go: Score, tmp_path: Path, stand_in: StandIn) -> None:
    path = samples_file(tmp_path, {f"Toy/{n}": [RIGHT] for n in range(4)})
    go("--samples_file", str(path), "--sandbox", "rlimits", "--seconds", "4.5", base=False)
    assert stand_in.where == {(4.5, 5, RLIMITS)}


@pytest.mark.parametrize("mode", [BUBBLEWRAP, RLIMITS])
def test_samples_are_tested_in_a_sandbox(go: Score, tmp_path: Path, mode: str) -> None:
    """The same completion of all tasks is right for one of them."""
    if mode == BUBBLEWRAP:
        skip_without_bubblewrap()
    path = samples_file(tmp_path, {f"Toy/{n}": [RIGHT, "    raise SystemExit(0)\n"] for n in range(4)})
    result, found = go("--samples_file", str(path), "--sandbox", mode, "--k", "1", "2", base=False)
    assert [row["passed"] for row in found] == [False, False, True] + 5 * [False]
    metrics = result["metrics"]
    assert metrics["statuses"] == {"error": 4, "failed": 3, "passed": 1}
    assert (metrics["pass@1"], metrics["pass@2"]) == (0.125, 0.25)


@pytest.mark.parametrize("flags", [(), ("--samples_file", "FILE")])
def test_a_dry_run_writes_nothing(go: Score, out: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = samples_file(tmp_path, {f"Toy/{n}": [RIGHT] for n in range(4)})
    with pytest.raises(FileNotFoundError):
        go("--dry_run", *(str(path) if flag == "FILE" else flag for flag in flags))
    assert not out.exists()


def test_a_bad_command_line_ends_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_main(lambda: main(["--second", "5"]))
    assert end.value.code == 2 and capsys.readouterr().err.endswith("did you mean --seconds?\n")


@pytest.mark.realdata
def test_the_published_tasks(shared_data: Path) -> None:
    tasks = load_humaneval(shared_data)
    assert len(tasks) == 164 and tasks[0].entry_point == "has_close_elements"
    for task in tasks:
        compile(task.program(task.solution) + task.check, task.task_id, "exec")
        # No published solution would be cut by a stop string.
        assert not any(stop in task.solution for stop in STOP), task.task_id


@pytest.mark.realdata
def test_the_published_solutions_are_read_in_every_form(shared_data: Path) -> None:
    def function(program: str, name: str) -> str:
        found = [node for node in ast.parse(program).body if isinstance(node, ast.FunctionDef) and node.name == name]
        return ast.dump(found[-1])

    for task in load_humaneval(shared_data):
        answer = task.prompt + task.solution
        whole = function(answer, task.entry_point)
        forms = {
            task.solution: "whole",
            task.solution.strip(): "body",
            f"Here is the code:\n\n{answer}\nIt does what was asked.": "function",
            f"Here is the code:\n\n```python\n{answer}\n```\nIt does what was asked.": "block_function",
            f"~~~\n{textwrap.dedent(task.solution)}": "block_body",
        }
        for text, rule in forms.items():
            found, program = task.read(text)
            assert (found, function(program, task.entry_point)) == (rule, whole), (task.task_id, rule)
