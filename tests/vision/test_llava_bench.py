"""LLaVA-Bench: answers in its form, a judge on this machine, and the score of ratings."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from commands import load_command, read_output, write_rows

from sharelora.data.vision import Conversation
from sharelora.data.vision.bench import read_questions, read_ratings
from sharelora.data.vision.conversations import Turn
from sharelora.data.vision.tokens import tokenise
from sharelora.evaluation.vision.judge import NO_POINTS, Judge, points
from sharelora.metrics.llava_bench import relative
from sharelora.models.vision import open_writer
from sharelora.support.errors import UserError


class Stub(HTTPServer):
    """A judge that remembers what it was asked, and answers from a list of (status, words); the last one stays."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.replies: list[tuple[int, str]] = [(200, "8 6\nThe first is better.")]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.keys.append(self.headers["Authorization"])
        replies = self.server.replies
        status, words = replies.pop(0) if len(replies) > 1 else replies[0]
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": words}}]}).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_command("llava_bench")


@pytest.fixture
def words(llava: Path, made: Path, tmp_path: Path) -> list[str]:
    """A short run of the command."""
    flags = {"model": llava, "bench": made / "llava_bench", "output": tmp_path / "out", "bits": 32, "limit": 6}
    return [word for name, value in {**flags, "max_new_tokens": 4}.items() for word in (f"--{name}", str(value))]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_have_llavas_form_and_nothing_is_sent(
    bench: ModuleType, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("something was sent")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", never)
    bench.main([*words, "--batch_size", "4"])
    rows = rows_of(tmp_path / "out" / "answers.jsonl")
    assert len(rows) == 6 and not (tmp_path / "out" / "result.json").exists()
    assert set(rows[0]) == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    said = capsys.readouterr().out
    assert "nothing was rated or scored" in said
    assert "prompts begin with <s> (as the tokenizer writes texts)" in said
    # One at a time, the plain way, gives the same answers.
    (tmp_path / "out" / "generations.jsonl").unlink()
    bench.main([*words, "--batch_size", "1"])
    assert [row["text"] for row in rows_of(tmp_path / "out" / "answers.jsonl")] == [row["text"] for row in rows]


def test_questions_begin_as_the_flag_says(llava: Path, bench: ModuleType) -> None:
    writer = open_writer(str(llava), None)
    token = writer.reader.tokenizer.bos_token_id
    records = [Conversation("a question", (), (Turn("user", "Why?"),))]
    rows = [tokenise(writer, records, begin)[0][0] for begin in (None, [token], [])]
    assert rows[0] == rows[1] == [token, *rows[2]] and token not in rows[2]


def test_a_judge_is_asked_once_a_question_and_its_points_are_the_score(
    bench: ModuleType, words: list[str], judge: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, password = "a key of its own", "a-password"
    monkeypatch.setenv("SHARELORA_JUDGE_KEY", f"{key}\n")
    judge.replies = [(200, "10 5\nWell."), (200, "no numbers"), (200, "8,6\nWell.")]
    url = judge.url.replace("//", f"//me:{password}@")
    asks = [*words, "--judge_url", url, "--judge_model", "stub"]
    monkeypatch.setattr(sys, "argv", ["llava_bench.py", *asks])
    bench.main(asks)
    result, rows = read_output(tmp_path / "out")
    assert len(judge.asked) == len(rows) == 6 and set(judge.keys) == {f"Bearer {key}"}
    assert judge.asked[0]["model"] == "stub"
    said = judge.asked[0]["messages"][0]["content"]
    assert all(part in said for part in ("[Context]\na ", "[Question]\nW", "[Assistant 1]\n", "[Assistant 2]\n"))
    metrics = result["metrics"]
    assert (metrics["rated"], metrics["without_points"], metrics["not_rated"]) == (5, 1, 0)
    assert metrics["score"] == pytest.approx(100 * (5 + 4 * 6) / (10 + 4 * 8))
    assert set(metrics["categories"]) == {"conv", "detail", "complex"}
    reviews = rows_of(tmp_path / "out" / "reviews.jsonl")
    assert reviews[1]["tuple"] == [-1, -1] and reviews[0]["category"].startswith("llava_bench_")
    written = "".join(path.read_text() for path in (tmp_path / "out").glob("*"))
    assert key not in written and password not in written and "//me:***@" in written
    # The same command again asks nothing; its reviews alone give the same score.
    bench.main(asks)
    assert len(judge.asked) == 6
    bench.main([*words, "--output", str(tmp_path / "again"), "--ratings", str(tmp_path / "out" / "reviews.jsonl")])
    assert read_output(tmp_path / "again")[0]["metrics"]["score"] == metrics["score"]


def test_a_judge_that_fails_is_asked_again_and_then_named(judge: Stub) -> None:
    asked = Judge(judge.url, "stub", pause=0.0)
    judge.replies = [(503, ""), (429, ""), (200, "7 7")]
    assert asked.ask("x") == "7 7" and len(judge.asked) == 3
    judge.replies = [(401, "")]
    with pytest.raises(UserError, match=r"the judge at .*/v1/chat/completions gave status 401; need a server"):
        asked.ask("x")
    assert len(judge.asked) == 4
    judge.replies = [(500, "")]
    with pytest.raises(UserError, match="gave status 500"):
        asked.ask("x")
    assert len(judge.asked) == 8
    with pytest.raises(UserError, match="found --judge_url localhost"):
        Judge("localhost", "stub")


def test_a_judge_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=r"the judge at http://127\.0\.0\.1:9/chat/completions gave"):
        Judge("http://127.0.0.1:9", "stub", tries=1).ask("x")


def test_the_words_of_llavas_rules_are_used(made: Path) -> None:
    question = read_questions(made / "llava_bench")[0]
    rules = {"llava_bench_conv": {"role": "Helper", "prompt": "Be fair."}}
    said = Judge("http://x", "stub", rules=rules).message(question, "a fox", "first", "second")
    assert said == (
        f"[Context]\na fox\n\n[Question]\n{question.text}\n\n[Helper 1]\nfirst\n\n[End of Helper 1]\n\n"
        "[Helper 2]\nsecond\n\n[End of Helper 2]\n\n[System]\nBe fair.\n\n"
    )
    with pytest.raises(UserError, match="no role and prompt for llava_bench_conv"):
        Judge("http://x", "stub", rules={}).message(question, "", "", "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("8 6\nx", (8, 6)), ("8.5, 10", (8.5, 10)), ("  7 7  \n", (7, 7)), ("eight six", NO_POINTS),
        ("8", NO_POINTS), ("8 6 4", NO_POINTS), ("8 11", NO_POINTS), ("0 5", NO_POINTS), ("", NO_POINTS),
        ("nan 5", NO_POINTS), ("Score: 8 6", NO_POINTS),
    ],
)  # fmt: skip
def test_points_are_two_numbers_in_the_first_line(words: str, found: tuple[float, float]) -> None:
    assert points(words) == found


def test_the_score_is_a_ratio_of_means() -> None:
    found = relative([(10, 5), (5, 10), (None, None)])
    assert (found.percent, found.count, found.unreadable) == (100, 2, 1)
    assert relative([(8, 6), (4, 4)]).percent == pytest.approx(100 * 10 / 12)
    assert math.isnan(relative([(0, 0)]).percent)
    with pytest.raises(ValueError, match="no ratings with points"):
        relative([(None, 3)])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question_id": 99, "category": "conv", "tuple": [1, 2]}], "rates question_id 99 though there is no such"),
        ([{"question_id": 0, "category": "conv", "tuple": [1, 2]}] * 2, "rates question_id 0 twice"),
        ([{"question_id": 0, "category": "conv", "tuple": [1]}], "need two numbers, reference and model"),
        ([{"question_id": "0", "category": "conv", "tuple": [1, 2]}], "has question_id '0'; need a whole number"),
    ],
)
def test_bad_ratings_are_named(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    write_rows(tmp_path / "reviews.jsonl", rows)
    with pytest.raises(UserError, match=said):
        read_ratings(tmp_path / "reviews.jsonl", lambda number: number < 5)


def test_ratings_without_any_points_and_missing_ones(
    bench: ModuleType, words: list[str], tmp_path: Path, capsys: Any
) -> None:
    row = {"question_id": 0, "category": "llava_bench_conv", "tuple": [-1, -1]}
    path = tmp_path / "reviews.jsonl"
    write_rows(path, [row])
    every = [*words, "--limit", "48", "--ratings", str(path)]
    with pytest.raises(UserError, match="found points in none of 1 ratings"):
        bench.main(every)
    write_rows(path, [row, {**row, "question_id": 3, "tuple": [9, 6]}])
    bench.main(every)
    assert "left out: 1 ratings without points, 46 questions unrated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"judge_url": "http://x"}, "found one of --judge_url and --judge_model"),
        ({"judge_url": "http://x", "judge_model": "m", "ratings": "r"}, "found --ratings and --judge_url"),
        ({"max_new_tokens": "1020"}, "found a question of .* tokens with its image"),
        ({"image_folder": "/nowhere"}, r"found 6 images that cannot be used|found \d+ images that cannot be used"),
        ({"bench": "/nowhere"}, "cannot read /nowhere/questions.jsonl"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    bench: ModuleType, words: list[str], more: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("sharelora.models.vision.load_base", never)
    with pytest.raises(UserError, match=said):
        bench.main([*words, *(word for name, value in more.items() for word in (f"--{name}", value))])
