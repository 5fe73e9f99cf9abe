"""The scripts of scripts/share and scripts/lora: which there are, and what each of them says.

    python scripts/generate.py           # write them all
    python scripts/generate.py --check   # write nothing; name those that differ, are missing, or are none of ours

Numbers and their sources are in models.yaml and tasks.yaml, which are read here, and in recipes/, which the scripts
pass on with --config. common/run.sh puts the command together.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
WIDTH = 150
# Folder -> what --share says, and what is tuned.
VARIANTS = {"share": ("a", "ShareA adapters"), "lora": ("none", "LoRA adapters")}
LLAMA_3 = ("llama3_8b", "llama3_70b")
# What QLoRA alone tuned.
LLAMA_LARGE = ("llama_30b", "llama_65b")
LLAMA = ("llama_7b", "llama_13b", "llama2_7b", "llama2_13b", "llama2_70b", *LLAMA_3)
INSTRUCTIONS = {"alpaca": (*LLAMA, *LLAMA_LARGE), "code": LLAMA_3, "gsm8k": LLAMA_3, "commonsense": LLAMA}
# What a script's name says of the base's precision -> flags of the tuning, and what it is called.
PRECISIONS = {
    "full": ({"bits": "16", "bf16": "true"}, "16-bit base"),
    "4bit": ({"bits": "4", "quant_type": "nf4", "double_quant": "true", "bf16": "true"}, "4-bit (NF4) base"),
}
ENCODERS = ("roberta_base", "roberta_large", "deberta_v2_xxlarge")
GLUE_TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
GPT2 = ("gpt2_medium", "gpt2_large")
NLG_DATA = ("e2e", "webnlg", "dart")
# Exam -> the models that sit it, and what each of its stages gives.
EXAMS = {
    "MMLU": ((*LLAMA, *LLAMA_LARGE), {"evaluate": "Five-shot MMLU test accuracy of"}),
    "MMLU_PRO": (LLAMA, {"evaluate": "MMLU-Pro test accuracy of"}),
    "Commonsense": (LLAMA, {"evaluate": "Accuracy on eight commonsense tasks of"}),
    "GSM8K": (
        LLAMA_3,
        {"generate": "Write worked answers to the GSM8K test questions with", "evaluate": "GSM8K test accuracy of"},
    ),
    "HumanEval": (
        LLAMA_3,
        {"generate": "Write completions of the HumanEval functions with", "evaluate": "HumanEval pass@1 of"},
    ),
}
TUNING: tuple[str, ...] = ("MODEL=DIR", "OUTPUT_DIR=DIR", "SHARELORA_DATA=DIR", "NPROC=N")

Flags = Mapping[str, str]


def _load(name: str) -> Any:
    """Read numbers as they are written: 5e-4 stays 5e-4, and `no` is a word."""
    return yaml.load((FOLDER / name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


MODELS: Mapping[str, Flags] = _load("models.yaml")
TASKS: Mapping[str, Any] = _load("tasks.yaml")


@dataclass(frozen=True)
class Script:
    """One script, but for the sharing.

    Attributes:
        path: below scripts/share and scripts/lora.
        about: what it does, in one line; {adapters} is replaced by what is tuned.
        variables: what its user can set.
        settings: what it tells common/run.sh in single words.
        flags: what it tells common/run.sh in flags: name of the array -> its words, a flag with its value in each.
        call: the function of common/run.sh, and the command that it runs.
        variants: folder -> what --share says, and what is tuned; there is no script in a folder that it lacks.
    """

    path: str
    about: str
    variables: tuple[str, ...]
    settings: Mapping[str, str]
    flags: Mapping[str, list[str]]
    call: str
    variants: Mapping[str, tuple[str, str]] = field(default_factory=lambda: VARIANTS)

    def text(self, variant: str) -> str:
        """Return the script as it is in one of the two folders.

        Args:
            variant: share or lora.
        """
        usage = " ".join(f"[{variable}]" for variable in self.variables)
        share, adapters = self.variants[variant]
        settings = {"share": share, **self.settings}
        up = "/.." * (1 + self.path.count("/"))
        lines = [
            "#!/usr/bin/env bash",
            f"# {self.about.format(adapters=adapters)}.",
            f"# Usage: {usage} bash scripts/{variant}/{self.path} [--tiny] [FLAGS]",
            "set -euo pipefail",
            "# Written by scripts/generate.py; --help says what it runs.",
            " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items()),
            *_arrays(self.flags),
            # A script may be called through a link.
            f'source "$(dirname "$(readlink -f "${{BASH_SOURCE[0]}}")"){up}/common/run.sh"',
            f'{self.call} "$@"',
        ]
        return "\n".join(lines) + "\n"


def _arrays(flags: Mapping[str, list[str]]) -> list[str]:
    """Write arrays of bash: short ones side by side, long ones over several lines."""
    lines: list[str] = []
    for name, words in ((name, words) for name, words in flags.items() if words):
        # A flag and its value stay on one line.
        joined = " ".join(word.replace(" ", "\0") for word in words)
        array = textwrap.wrap(f"{name}=({joined})", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        if lines and len(array) == 1 and not lines[-1].startswith(" ") and len(lines[-1]) + len(array[0]) < WIDTH:
            lines[-1] += f" {array[0]}"
        else:
            lines += array
    return [line.replace("\0", " ") for line in lines]


def scripts() -> list[Script]:
    """Return every script."""
    return [
        *(
            instruction(data, model, precision)
            for data, models in INSTRUCTIONS.items()
            for model in models
            for precision in PRECISIONS
        ),
        *(
            in_groups(model, which, precision)
            for model in TASKS["groups"]["published"]
            for which in ("groups", "groups_auto")
            for precision in PRECISIONS
        ),
        vision("llava15_7b", "full"),
        continual("llama3_8b", "full"),
        *(glue(model, task) for model in ENCODERS for task in GLUE_TASKS),
        *(glue("deberta_v2_xxlarge", "mnli", regularizer) for regularizer in ("rdrop", "cutoff")),
        *(nlg(model, data) for model in GPT2 for data in NLG_DATA),
        *(
            exam(name, stage, model, precision)
            for name, (models, stages) in EXAMS.items()
            for stage in stages
            for model in models
            for precision in PRECISIONS
        ),
    ]


def instruction(data: str, model: str, precision: str) -> Script:
    """A LLaMA, tuned on instructions."""
    of_precision, base = PRECISIONS[precision]
    task = TASKS["instructions"][data]
    # A recipe of the data set is for every model alike.
    own = data in task
    recipe = data if own else MODELS[model]["recipe"]
    name = f"{data}_{model}_{precision}"
    return Script(
        f"finetune_{name}.sh",
        f"Tune {MODELS[model]['label']} on {task['label']} with {{adapters}}; {base}",
        TUNING,
        _settings(name, model, "tiny_llama", recipe),
        {
            "flags": _words(of_precision, {} if own else _of_model(model), task[recipe]),
            "tiny_flags": _words(task.get("tiny", {}), _tiny(precision)),
        },
        "tune qlora_share/qlora_share.py",
    )


def in_groups(model: str, which: str, precision: str) -> Script:
    """A LLaMA on the commonsense tasks, whose similar layers share: in the published groups, or in measured ones."""
    groups, (threshold, published) = TASKS["groups"], TASKS["groups"]["published"][model]
    plain, auto = instruction("commonsense", model, precision), which == "groups_auto"
    how = {**groups["auto"], "similarity_threshold": threshold} if auto else {"share_groups": published}
    found = "measured when the run starts" if auto else "those of the paper"
    name = f"commonsense_{model}_{which}_{precision}"
    return replace(
        plain,
        path=f"finetune_{name}.sh",
        about=f"Tune {MODELS[model]['label']} on {TASKS['instructions']['commonsense']['label']} with {{adapters}}, "
        f"{found}; {PRECISIONS[precision][1]}",
        settings={**plain.settings, "name": name},
        flags={
            "flags": [*plain.flags["flags"], *_words(how, groups["flags"])],
            "tiny_flags": [*plain.flags["tiny_flags"], *_words(groups["tiny_auto" if auto else "tiny"])],
        },
        variants={"share": ("ab", "LoRA modules shared in groups of similar layers")},
    )


def vision(model: str, precision: str) -> Script:
    """A model that reads images, tuned on conversations."""
    of_precision, base = PRECISIONS[precision]
    name = f"{model}_{precision}"
    files = ['${DATA_PATH:+--data_path "$DATA_PATH"}', '${IMAGE_FOLDER:+--image_folder "$IMAGE_FOLDER"}']
    return Script(
        f"finetune_{name}.sh",
        f"Tune {MODELS[model]['label']} on conversations about images with {{adapters}} in its language model, "
        f"and its projector; {base}",
        ("MODEL=DIR", "OUTPUT_DIR=DIR", "DATA_PATH=FILE", "IMAGE_FOLDER=DIR", "NPROC=N"),
        _settings(name, model, "tiny_llava"),
        {"flags": [*_words(of_precision), *files]},
        "tune qlora_share/llava_share.py",
    )


def continual(model: str, precision: str) -> Script:
    """A LLaMA, tuned on three tasks in turn."""
    of_precision, base = PRECISIONS[precision]
    task = TASKS["continual"]
    return Script(
        f"continual_{model}.sh",
        f"Tune {MODELS[model]['label']} on Alpaca, GSM8K and code one after the other with {{adapters}}; "
        f"what is kept, what is forgotten; {base}",
        TUNING[:-1],
        _settings(f"continual_{model}", model, "tiny_llama"),
        {
            "flags": _words(of_precision, _of_model(model), task["flags"]),
            "tiny_flags": _words(_tiny(precision), task["tiny"]),
        },
        "tune_in_turn eval/continual.py",
        {"share": ("a", "LoRA and three ways of sharing"), "lora": ("none", "LoRA")},
    )


def glue(model: str, task: str, regularizer: str | None = None) -> Script:
    """An encoder, tuned on a GLUE task.

    Raises:
        ValueError: tasks.yaml has no line for the task.
    """
    numbers, labels = TASKS["glue"][model], TASKS["glue"]["labels"]
    if task not in numbers:
        raise ValueError(f"found no task {task} of {model} in scripts/tasks.yaml; need a line for it; add one")
    line = dict(zip(numbers["columns"], numbers[task], strict=True))
    start, gpus, per_gpu = (line.pop(column) for column in ("start", "gpus", "per_gpu"))
    batch = {"per_device_train_batch_size": per_gpu, "gradient_accumulation_steps": gpus}
    name = f"{model}_{task}"
    about = f"Tune {MODELS[model]['label']} on {labels[task]} with {{adapters}} on query and value"
    more: dict[str, str] = {}
    if regularizer:
        more = dict(TASKS["glue"]["regularizers"][regularizer])
        about, name = f"{about} and {more.pop('label')}", f"{name}_{regularizer}"
    variables, settings = TUNING, _settings(name, model, "tiny_glue")
    if start != "none":
        about += f", starting from an {labels[start]} adapter"
        variables, settings = (*TUNING, "INIT=DIR"), {**settings, "start_from": f"{model}_{start}"}
    flags = {"flags": _words({"task_name": task}, batch, line, more)}
    return Script(f"{name}.sh", about, variables, settings, flags, "tune NLU/run_glue_share.py")


def nlg(model: str, data: str) -> Script:
    """GPT-2, tuned on a data-to-text set; it decodes the test set, and its texts are scored."""
    task, every = TASKS["nlg"][data], TASKS["nlg"]["all"]
    test_set = {"data": data, "split": "test"}
    name = f"{model}_{data}"
    return Script(
        f"{name}.sh",
        f"Tune {MODELS[model]['label']} on {task['label']} with {{adapters}} on query and value, decode the test set, "
        "and score the texts",
        (*TUNING, 'STAGES="train decode score"'),
        _settings(name, model, "tiny_gpt2"),
        {
            "flags": _words({"train_data": data}, task["flags"]),
            "full_flags": _words(every["full"]),
            "decode_flags": _words(test_set, task["decode"], every["decode"]),
            "tiny_decode_flags": _words(every["tiny_decode"]),
            "score_flags": [*_words({"task": data}, test_set), *task.get("score", [])],
            "tiny_score_flags": _words(every["tiny_score"]),
        },
        "tune_decode_score NLG/gpt2_share_ft.py",
    )


def exam(name: str, stage: str, model: str, precision: str) -> Script:
    """What was tuned, examined."""
    of_precision, base = PRECISIONS[precision]
    task, stages = TASKS["exams"][name], EXAMS[name][1]
    on = "them" if task["data"] == "commonsense" else TASKS["instructions"][task["data"]]["label"]
    only = {"generate_only": str(stage == "generate").lower()} if "generate" in stages else {}
    return Script(
        f"eval/{name}_{stage}_{model}_{precision}.sh",
        f"{stages[stage]} {MODELS[model]['label']} tuned on {on} with {{adapters}}; {base}",
        ("MODEL=DIR", "ADAPTER=DIR", "OUTPUT_DIR=DIR", "SHARELORA_DATA=DIR"),
        {
            "name": f"{name}_{model}_{precision}",
            "tuned": f"{task['data']}_{model}_{precision}",
            "base": MODELS[model]["base"],
        },
        {
            "flags": _words({"bits": of_precision["bits"]}, task["flags"], only),
            "tiny_flags": _words(_tiny(precision), task["tiny"]),
        },
        f"examine {task['entry']}",
    )


def _settings(name: str, model: str, tiny_recipe: str, recipe: str | None = None) -> dict[str, str]:
    recipe = recipe or MODELS[model]["recipe"]
    return {"name": name, "base": MODELS[model]["base"], "recipe": recipe, "tiny_recipe": tiny_recipe}


def _of_model(model: str) -> Flags:
    return {name: value for name, value in MODELS[model].items() if name not in ("label", "base", "recipe")}


def _tiny(precision: str) -> Flags:
    """Most CPUs multiply 32-bit numbers faster; a 4-bit base stays one."""
    return {"bits": "32"} if precision == "full" else {}


def _words(*flags: Flags) -> list[str]:
    return [f"--{name} {shlex.quote(value)}" for some in flags for name, value in some.items()]


def texts() -> dict[str, str]:
    """Return every script's text by its path below scripts/."""
    return {f"{variant}/{script.path}": script.text(variant) for script in scripts() for variant in script.variants}


def differences(folder: Path = FOLDER) -> list[str]:
    """Return what is wrong with the scripts in a folder that has share/ and lora/, one line each."""
    written = {str(file.relative_to(folder)): file for name in VARIANTS for file in (folder / name).rglob("*.*")}
    expected = texts()
    wrong = [
        f"found {path}; need only scripts that scripts/generate.py knows; add it there or move it"
        for path in written.keys() - expected.keys()
    ]
    for path, text in expected.items():
        if path not in written:
            wrong.append(f"found no {path}; need it; run python scripts/generate.py")
        elif written[path].read_text(encoding="utf-8") != text:
            wrong.append(f"found changes in {path}; need what scripts/generate.py writes; change that, and run it")
    return sorted(wrong)


def main() -> int:
    """Write or compare; return how the process ends."""
    parser = argparse.ArgumentParser(description="Write the scripts of scripts/share and scripts/lora.")
    parser.add_argument("--check", action="store_true", help="write nothing; name those that differ")
    if not parser.parse_args().check:
        for path, text in texts().items():
            file = FOLDER / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            file.chmod(0o755)
    wrong = differences()
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
