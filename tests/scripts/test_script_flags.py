"""Every flag of every script is one that its entry point has, under its present name, with a value it takes."""

from __future__ import annotations

from types import ModuleType

import pytest
from script_commands import SCRIPTS, Command, flags_of, load

from sharelora.data.registry import known
from sharelora.models.outlines import outlined_sites
from sharelora.training.instructions.job import InstructionArguments, parse

# LLaVA's is another job: test_vision_scripts.py.
TRAINING = sorted(str(file.relative_to(SCRIPTS)) for file in SCRIPTS.glob("*/finetune_*_llama*.sh"))
COMMONSENSE = [script for script in TRAINING if "commonsense" in script]
EXAMS = {"MMLU": "mmlu", "MMLU_PRO": "mmlu_pro", "Commonsense": "commonsense"}
CHOICE = sorted(
    str(file.relative_to(SCRIPTS)) for exam in EXAMS for file in SCRIPTS.glob(f"*/eval/{exam}_evaluate_*.sh")
)


def arguments(words: list[str]) -> InstructionArguments:
    """Parse the command line of the job."""
    return parse(flags_of(words, "qlora_share/qlora_share.py"))


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
@pytest.mark.parametrize("script", TRAINING)
def test_the_parser_takes_every_flag_without_a_notice(command: Command, script: str, tiny: list[str]) -> None:
    args = arguments(command(script, *tiny))
    assert args.notices == ()
    assert args.run.tiny is bool(tiny)
    assert args.values["share"] == ("none" if script.startswith("lora/") else "ab" if "_groups_" in script else "a")
    assert args.model.bits == (4 if script.endswith("_4bit.sh") else 32 if tiny else 16)
    assert known(args.data.dataset).format == args.data.dataset_format
    assert (len(TRAINING), len(COMMONSENSE)) == (92, 40)


SHARED = [script for script in TRAINING if script.startswith("share/")]


@pytest.mark.parametrize("script", [script for script in SHARED if script not in COMMONSENSE])
def test_a_run_is_what_its_sources_say(command: Command, script: str) -> None:
    args = arguments(command(script))
    train = args.train
    small = any(size in script for size in ("_7b_", "_13b_"))
    assert train["per_device_train_batch_size"] * train["gradient_accumulation_steps"] == 16
    assert train["learning_rate"] == (2e-4 if small else 1e-4)
    assert args.values["lora_dropout"] == (0.1 if "_7b_" in script or "_8b_" in script else 0.05)
    assert train["max_steps"] == (3000 if "llama3" in script else 1875)
    assert args.values["lora_modules"] == ("q_proj,v_proj" if "llama3" in script else "all")
    assert (args.values["lora_r"], args.values["lora_alpha"]) == (64, 16)
    assert (train["lr_scheduler_type"], train["bf16"], train["max_grad_norm"]) == ("constant", True, 0.3)


@pytest.mark.parametrize("script", [script for script in SHARED if script in COMMONSENSE])
def test_a_commonsense_run_is_what_llm_adapters_says(command: Command, script: str) -> None:
    """The same for every model: its finetune.py, and the rank and the modules of the second paper."""
    args = arguments(command(script))
    train = args.train
    assert train["per_device_train_batch_size"] * train["gradient_accumulation_steps"] == 16
    assert (train["learning_rate"], train["num_train_epochs"], train["max_steps"]) == (3e-4, 3, -1)
    assert (train["lr_scheduler_type"], train["warmup_steps"], train["max_grad_norm"]) == ("linear", 100, 1.0)
    assert (train["optim"], train["weight_decay"], train["bf16"]) == ("adamw_torch", 0, True)
    assert args.values["lora_modules"] == "q_proj,k_proj,v_proj,up_proj,down_proj"
    assert (args.values["lora_r"], args.values["lora_alpha"], args.values["lora_dropout"]) == (8, 16, 0.05)
    assert (args.data.dataset, args.data.eval_dataset_size, args.data.train_on_source) == ("commonsense", 120, True)
    assert args.data.source_max_len + args.data.target_max_len == 256


@pytest.mark.parametrize(
    ("script", "model", "parameters"),
    [
        ("llama_7b", "llama-7b", 10_847_232),
        ("llama2_7b", "llama2-7b", 11_833_344),
        ("llama3_8b", "llama3-8b", 12_939_264),
    ],
)
def test_the_published_groups_have_the_published_size(
    command: Command, script: str, model: str, parameters: int
) -> None:
    settings = arguments(command(f"share/finetune_commonsense_{script}_groups_full.sh")).adapter_settings
    sites = outlined_sites(model, settings.modules)
    assert sites is not None and settings.plan_of(sites).num_parameters == parameters


@pytest.mark.parametrize("script", TRAINING)
def test_the_best_checkpoint_is_chosen_on_rows_held_out_of_train(command: Command, script: str) -> None:
    args = arguments(command(script))
    assert args.data.eval_dataset_size > 0
    assert args.train["load_best_model_at_end"] and args.train["metric_for_best_model"] == "eval_loss"
    assert args.train["save_steps"] == args.train["eval_steps"]
    assert args.mmlu.mmlu_split == "eval"


def test_the_parser_would_refuse_a_flag_that_it_does_not_have(command: Command) -> None:
    with pytest.raises(ValueError, match="unknown flag --lora_rnk"):
        arguments(command(TRAINING[0], "--lora_rnk", "3"))


@pytest.fixture(scope="module")
def entries() -> dict[str, ModuleType]:
    """The commands of eval/ by their names."""
    return {name: load(SCRIPTS.parent / "eval" / f"{name}.py") for name in EXAMS.values()}


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
@pytest.mark.parametrize("script", CHOICE)
def test_the_evaluation_takes_every_flag(
    command: Command, entries: dict[str, ModuleType], script: str, tiny: list[str]
) -> None:
    exam = script.rpartition("/")[2].partition("_evaluate")[0]
    words = command(script, *tiny)
    assert words[1].endswith(f"eval/{EXAMS[exam]}.py")
    args = entries[EXAMS[exam]].parser().parse(words[2:])
    assert args.tiny is bool(tiny) and args.limit is None
    assert args.bits == (4 if script.endswith("_4bit.sh") else 32 if tiny else 16)
    if exam == "Commonsense":
        assert (args.tasks, args.by, args.max_new_tokens, args.temperature) == (None, "both", 32, 0)
    else:
        shots = 0 if tiny else {"MMLU": 5, "MMLU_PRO": None}[exam]
        assert (args.shots, args.split, args.prompt, args.subjects) == (shots, "test", "qlora", None)
    assert len(CHOICE) == 92
