"""Tokens stand neither in what is printed nor in what is written."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from sharelora.reporting.results import write_result
from sharelora.support import secrets
from sharelora.support.errors import FAILED, UserError, run_main
from sharelora.support.files import write_json, write_json_lines, write_text
from sharelora.support.secrets import hide, keep_words, redacted
from sharelora.support.text import one_line
from sharelora.training.glue import job as glue
from sharelora.training.instructions import job as instructions
from sharelora.training.instructions.job import run
from sharelora.training.nlg import job as nlg

TOKEN = "hf_" + "abcdefABCDEF123456" * 2
PLAIN = "a-secret-without-a-form"


@pytest.mark.parametrize("flag", ["--token", "--hub_token", "--push-to-hub-token", "--use_auth_token", "--api_key"])
def test_values_of_flags_that_take_a_secret_are_hidden(flag: str) -> None:
    words = ["run.py", flag, PLAIN, "--seed", "1", f"{flag}={PLAIN}", "--run_name", f"with {TOKEN}"]
    found = redacted(words)
    assert PLAIN not in str(found) and TOKEN not in str(found)
    assert found[:5] == ["run.py", flag, "***", "--seed", "1"] and found[5] == f"{flag}=***"
    assert redacted([flag, "true", "--max_new_tokens", "5"]) == [flag, "true", "--max_new_tokens", "5"]


def test_a_result_has_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--token", PLAIN, f"--hub_token={TOKEN}", "--seed", "3"])
    path = write_result(tmp_path, "train", {"note": f"x {TOKEN}", "seed": 3}, {"loss": 1.0})
    text = path.read_text()
    assert TOKEN not in text and PLAIN not in text and "--seed 3" in text
    assert json.loads(text)["config"]["note"] == "x hf_***"


@pytest.mark.parametrize(("module", "more"), [(instructions, []), (nlg, []), (glue, ["--task_name", "cola"])])
def test_settings_and_notices_have_no_token(module: object, more: list[str]) -> None:
    args = module.parse([*more, "--use_auth_token", PLAIN, "--hub_token", PLAIN])  # type: ignore[attr-defined]
    assert args.model.token == PLAIN  # it is used, and said to be
    assert any("--token ***" in notice for notice in args.notices)
    assert PLAIN not in str(args.notices) and PLAIN not in json.dumps(args.to_json(), default=str)


def test_what_decides_has_no_token() -> None:
    args = instructions.parse(["--token", PLAIN])
    assert PLAIN not in str(instructions.JOB.deciding(args))


def test_a_run_leaves_no_token_anywhere(
    command: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Neither in a log, nor in any file: results, settings, checkpoints, the adapter."""
    monkeypatch.setattr("sharelora.reporting.history._plot", lambda rows: b"no plot in this test")
    out = tmp_path / "out"
    words = [*command, "--output_dir", str(out), "--token", PLAIN, "--hub_token", TOKEN, "--do_eval"]
    words += ["--eval_dataset_size", "8", "--run_name", f"with {TOKEN}"]
    monkeypatch.setattr(sys, "argv", ["qlora_share.py", *words])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with caplog.at_level(logging.DEBUG):
        run(instructions.parse(words))
    said = caplog.text + "".join(capfd.readouterr())
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 10 and "parameters are trained" in said
    for secret in (PLAIN, TOKEN):
        assert secret not in said
        assert not [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("prefix", ["hf_", "api_org_"])
@pytest.mark.parametrize("place", ["{}", "the hub refuses {}", "https://user:{}@host/x", "run_{}", '"{}"', "x={},"])
def test_tokens_of_users_and_organisations_are_hidden(prefix: str, place: str) -> None:
    assert hide(place.format(prefix + "aB3" * 11 + "z")) == place.format(f"{prefix}***")


def test_tokens_of_a_sign_in_are_hidden() -> None:
    assert hide(f"x hf_oauth_{'eyJhbGciOi.J9-' * 4} y") == "x hf_oauth_*** y"


@pytest.mark.parametrize(
    "name",
    "hf_codealpaca hf_models hf_transformers_cache hf_device_map HuggingFaceH4/CodeAlpaca_20K api_org_settings".split()
    + f"hf_{'a' * 33} runs/hf_internal_testing_tiny_random_llama xhf_{'a' * 34}".split(),
)
def test_names_that_begin_like_a_token_stay(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--dataset", name])
    text = write_result(tmp_path, "train", {"dataset": name}, {"loss": 1.0}).read_text()
    assert json.loads(text)["config"]["dataset"] == name and f"--dataset {name}" in text
    assert hide(f"no data set {name}; did you mean {name}?") == f"no data set {name}; did you mean {name}?"


def test_a_secret_of_the_environment_is_hidden_whatever_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SHARELORA_JUDGE_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(variable, PLAIN)
        assert hide(f"the server says: bad key {PLAIN}") == "the server says: bad key ***"
        monkeypatch.setenv(variable, "key")  # so short a value stands in ordinary words
        assert hide("a bad key") == "a bad key"
        monkeypatch.delenv(variable)


def test_half_a_token_is_not_left_where_a_message_is_cut() -> None:
    assert one_line(ValueError(f"{'x' * 280} {TOKEN}")) == f"{'x' * 280} hf_***"


def test_an_error_has_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError(f"the hub refuses {TOKEN}")

    with pytest.raises(SystemExit):
        run_main(fail)
    assert capsys.readouterr().err == "error: the hub refuses hf_***\n" and hide("no token") == "no token"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets of other tests."""
    monkeypatch.setattr(secrets, "_kept", set())


@pytest.mark.parametrize(
    "variable", ["OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MY_TOKEN"]
)
def test_any_variable_that_is_called_a_secret_is_one(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, f" {PLAIN}\n")  # as a file with a line end gives it
    assert hide(f"bad {PLAIN} and {PLAIN}!") == "bad *** and ***!"


@pytest.mark.parametrize("variable", ["TOKENIZERS_PARALLELISM", "KEYBOARD", "MONKEY", "HF_HOME"])
def test_other_variables_are_none(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "plainly visible")
    assert hide("plainly visible") == "plainly visible"


@pytest.mark.parametrize("secret", ['a "quoted" one', "back\\slash", "ünïcode key", "a/b+c=d&e f"])
def test_a_secret_is_found_however_it_is_quoted(fresh: None, secret: str) -> None:
    keep_words(["--token", secret])
    for spelled in (secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret)):
        assert hide(f"x {spelled} y").strip("xy '\"") == "***"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:hunter2@host/v1", "http://user:***@host/v1"),
        ("https://hunter2@host:8000/v1", "https://***@host:8000/v1"),
        ("http://user:p@ss@host/v1", "http://user:***@host/v1"),
        ("http://host/v1?api_key=hunter2&model=x", "http://host/v1?api_key=***&model=x"),
        ("http://host/v1?model=x&access_token=hunter2", "http://host/v1?model=x&access_token=***"),
        ("http://host/v1?model=x", "http://host/v1?model=x"),
        ("http://host/a@b", "http://host/a@b"),
        ("mail a@b, see http://host", "mail a@b, see http://host"),
    ],
)
def test_what_a_url_has_of_secrets_is_hidden(url: str, shown: str) -> None:
    assert hide(f"found {url}; need") == f"found {shown}; need"


def test_what_a_url_has_of_secrets_is_hidden_without_the_url(fresh: None) -> None:
    keep_words(["--judge_url=http://user:hunter2%20and%203@host/v1?api_key=longer+key", "--data", "http://x y"])
    for secret in ("hunter2%20and%203", "hunter2 and 3", "longer key"):
        assert hide(f"denied: {secret}") == "denied: ***"


def test_no_file_that_is_written_has_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "1234567890")
    value = {"a": ["x 1234567890"], "b": {"c": "1234567890"}, "number": 1234567890}
    write_json(tmp_path / "a.json", value)
    write_json_lines(tmp_path / "b.jsonl", [value])
    write_text(tmp_path / "c.txt", "x 1234567890")
    expected = {"a": ["x ***"], "b": {"c": "***"}, "number": 1234567890}  # a number stays one, or it would be no JSON
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((tmp_path / "b.jsonl").read_text()) == expected
    assert (tmp_path / "c.txt").read_text() == "x ***"


def test_no_print_log_warning_or_traceback_of_a_program_has_a_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", PLAIN)

    def fail() -> None:
        print("said", PLAIN)
        sys.stdout.writelines([f"a line with {PLAIN}\n"])
        log = logging.StreamHandler()
        log.emit(logging.LogRecord("x", logging.INFO, "", 0, "logged %s", (PLAIN,), None))
        try:
            raise ValueError(f"Invalid header value b'Bearer {PLAIN}\\n'")
        except ValueError as error:
            raise KeyError(PLAIN) from error

    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit) as caught:
        run_main(fail)
    assert caught.value.code == FAILED and before == (sys.stdout, sys.stderr)
    out, err = capsys.readouterr()
    assert out == "said ***\na line with ***\n" and err.startswith("logged ***\n")
    assert "ValueError: Invalid header value b'Bearer ***" in err and "KeyError: '***'" in err
    assert PLAIN not in out + err


def test_a_flag_in_a_file_of_settings_is_a_secret_too(fresh: None, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"token: {PLAIN}\n")
    assert instructions.parse(["--config", str(file)]).model.token == PLAIN
    assert hide(f"refused {PLAIN}") == "refused ***" and str(UserError(PLAIN)) == "***"
