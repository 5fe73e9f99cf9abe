"""The generator of the scripts, and what it takes its numbers from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from script_commands import SCRIPTS, Command, environment, load, value

EXAM = "MMLU_evaluate_llama3_8b_full.sh"
RECIPES = sorted(file.stem for file in (SCRIPTS / "recipes").glob("*.yaml"))
# Recipe -> a script that has it, with the flags that bring it to the command line.
USERS = {
    "qlora": ("share/finetune_alpaca_llama_7b_full.sh", "--config"),
    "llama3": ("share/finetune_alpaca_llama3_8b_full.sh", "--config"),
    "commonsense": ("share/finetune_commonsense_llama3_8b_full.sh", "--config"),
    "llava": ("share/finetune_llava15_7b_full.sh", "--config"),
    "gpt2": ("share/gpt2_medium_e2e.sh", "--config"),
    "roberta": ("share/roberta_base_cola.sh", "--config"),
    "deberta": ("share/deberta_v2_xxlarge_cola.sh", "--config"),
    "tiny_llama": ("share/finetune_alpaca_llama3_8b_full.sh", "--tiny"),
    "tiny_llava": ("share/finetune_llava15_7b_full.sh", "--tiny"),
    "tiny_gpt2": ("share/gpt2_medium_e2e.sh", "--tiny"),
    "tiny_glue": ("share/roberta_base_cola.sh", "--tiny"),
}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """scripts/generate.py."""
    return load(SCRIPTS / "generate.py")


def test_the_scripts_are_what_the_generator_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "generate.py"), "--check"], cwd="/", capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_script_that_is_changed_missing_or_unknown_is_named(generator: ModuleType, tmp_path: Path) -> None:
    for variant in ("share", "lora"):
        shutil.copytree(SCRIPTS / variant, tmp_path / variant)
    assert generator.differences(tmp_path) == []
    changed, missing, unknown = "lora/roberta_base_cola.sh", "share/gpt2_large_dart.sh", "share/eval/own.sh"
    (tmp_path / changed).write_text((tmp_path / changed).read_text().replace("4e-4", "5e-4"))
    (tmp_path / missing).unlink()
    (tmp_path / unknown).write_text("")
    lines = generator.differences(tmp_path)
    assert len(lines) == 3
    for start in (f"found changes in {changed}; need ", f"found no {missing}; need ", f"found {unknown}; need "):
        assert any(line.startswith(start) for line in lines), lines


def test_what_is_written_is_the_same_every_time_and_says_who_wrote_it(generator: ModuleType) -> None:
    texts = generator.texts()
    assert len(texts) == 284 and list(texts.items()) == list(generator.texts().items())
    assert all("# Written by scripts/generate.py" in text for text in texts.values())


def test_a_task_that_the_table_lacks_is_refused(generator: ModuleType) -> None:
    with pytest.raises(ValueError) as error:
        generator.glue("roberta_base", "wnli")
    message = "found no task wnli of roberta_base in scripts/tasks.yaml; need a line for it; add one"
    assert str(error.value) == message


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_read_by_bash_as_by_yaml(command: Command, recipe: str) -> None:
    settings = yaml.load((SCRIPTS / f"recipes/{recipe}.yaml").read_text(), Loader=yaml.BaseLoader)
    script, flag = USERS[recipe]
    words = command(script, *((flag, "own.yaml") if flag == "--config" else (flag,)), STAGES="train")
    flags = [word for name, text in settings.items() for word in (f"--{name}", text)]
    assert any(words[at : at + len(flags)] == flags for at in range(len(words)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_where_its_numbers_are_from(recipe: str) -> None:
    text = (SCRIPTS / f"recipes/{recipe}.yaml").read_text()
    assert text.startswith("# ") and all(isinstance(name, str) for name in yaml.safe_load(text))
    assert (
        "--tiny" in text.splitlines()[0] if recipe.startswith("tiny_") else "For --config." in text.partition(":\n")[0]
    )


@pytest.mark.parametrize("script", [script for script, flag in USERS.values() if flag == "--config"])
def test_a_script_passes_its_recipe_on_as_a_file(command: Command, script: str) -> None:
    words = command(script, STAGES="train")
    assert Path(value(words, "--config")).parent == SCRIPTS / "recipes" and words.count("--config") == 1


@pytest.mark.parametrize("flags", [("--config", "own.yaml"), ("--config=own.yaml",)])
def test_a_file_of_the_users_own_changes_no_number_of_the_recipe(command: Command, flags: tuple[str, ...]) -> None:
    words = command("share/finetune_alpaca_llama3_8b_full.sh", *flags)
    assert words[-len(flags) :] == list(flags)
    assert [value(words[: -len(flags)], flag) for flag in ("--max_steps", "--lora_r")] == ["3000", "64"]
    assert not any(word.endswith("llama3.yaml") for word in words)


@pytest.mark.parametrize(
    "path", ["share/gpt2_medium_e2e.sh", "lora/roberta_base_rte.sh", "share/continual_llama3_8b.sh"]
)
@pytest.mark.parametrize("arguments", [(), ("--tiny",), ("--help",)], ids=["real", "tiny", "help"])
def test_two_files_at_most_are_sourced(path: str, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["bash", "-x", str(SCRIPTS / path), *arguments],
        env=environment(PRINT_COMMAND="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    sourced = [line.split()[-1] for line in done.stderr.splitlines() if line.lstrip("+").startswith(" source ")]
    assert [Path(file).name for file in sourced] == ["run.sh", "environment.sh", "paths.sh"]
