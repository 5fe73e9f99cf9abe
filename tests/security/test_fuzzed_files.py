"""Every reader meets thousands of damaged files: each ends soon, in a value or in one line that a person can read.

The files are the same in every run. `make test` tries some hundreds; all of them are marked slow.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hostile_files import ANY, JSON, LINES, TENSORS, WORDS, Mutation
from pyarrow import parquet
from safetensors.torch import save_file
from torch import ones, save

from sharelora.continual.stages import _read as read_stage
from sharelora.convert.base_folder import read_base
from sharelora.convert.exporting import export_lora, export_loralib
from sharelora.convert.inspection import inspect
from sharelora.convert.sources import read_lora
from sharelora.data.formats import format_of, format_rows
from sharelora.data.glue.files import read_split
from sharelora.data.glue.tasks import glue_task
from sharelora.data.nlg.load import read_file
from sharelora.data.nlg.token_files import read_ids, read_predictions
from sharelora.data.rows import read_rows
from sharelora.data.templates import find_template
from sharelora.evaluation.beam.job import HypothesisStore
from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.generation.engine import TextStore
from sharelora.evaluation.generation.settings import Generated
from sharelora.evaluation.programs import OutcomeStore
from sharelora.evaluation.vision.judge import Judge, read_rules
from sharelora.evaluation.vision.ratings import ReviewStore
from sharelora.flags.settings_file import read_settings, typed
from sharelora.layer_groups.grouping import strict
from sharelora.layer_groups.similarity import COSINE, MEASURES, Similarity, read_similarity
from sharelora.models.adapter import load_adapter
from sharelora.models.context import context_of
from sharelora.models.known import meta_model, model_config
from sharelora.models.load import load_base, load_tokenizer, resolve_model
from sharelora.plan.rows import plan_from_rows
from sharelora.plan.site import Site
from sharelora.reporting.compare import compare
from sharelora.reporting.figures.experiments import read_experiments
from sharelora.sandbox import Outcome
from sharelora.support.errors import UserError
from sharelora.support.reading import read_json
from sharelora.trainer.checkpoints import damage
from sharelora.trainer.exact_state import PARTS
from sharelora.trainer.serialization import load_state
from sharelora.training.ablation.grid import read_grid
from sharelora.training.ablation.runs import ENDED, Run, is_done
from sharelora.training.glue.record import Record, read_record, read_weights
from sharelora.training.glue.selection import Selection
from sharelora.training.instructions.job import parse
from sharelora.training.output import _resumable, look

SECONDS = 5
Read = Callable[[Path], Any]
ALPACA = [{"instruction": f"say {n}", "input": "", "output": f"it is {n}", "score": n} for n in range(4)]
CHAT = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": "[]"}] * 2
SITES = [Site(f"layers.{n}.q_proj", "q_proj", n, 8, 8) for n in range(3)]


@dataclass(frozen=True)
class Case:
    """A file and what reads it.

    Attributes:
        file: a good one.
        mutations: what is done to it.
        read: reads it, or the folder that it is in.
        slow: reading takes more than some milliseconds.
    """

    file: Path
    mutations: Sequence[Mutation]
    read: Read
    slow: bool = False


def written(path: Path, content: str | bytes | Any) -> Path:
    """Write text, bytes, or a value as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path


def lines(path: Path, rows: Sequence[Any]) -> Path:
    """Write JSON lines."""
    return written(path, "\n".join(map(json.dumps, rows)) + "\n")


def trusting(folder: Path) -> Path:
    """Take the checksum out of an adapter: whoever alters a file can do that, too."""
    file = folder / "adapter_config.json"
    written(file, {**json.loads(file.read_text()), "weights_sha256": None})
    return folder


def adapters(root: Path, model: Path, finished: Path) -> dict[str, Case]:
    ours = trusting(Path(shutil.copytree(finished / "adapter_model", root / "ours")))
    plain = trusting(Path(shutil.copytree(export_lora(ours, root / "exported", model).folder, root / "plain")))
    flat = export_loralib(ours, root / "flat.safetensors", model).file
    state = {f"layers.{n}.q_proj.lora_{side}": ones(2, 2) for n in range(2) for side in "AB"}
    save(state, root / "lora.pt")

    def load(path: Path) -> None:
        load_adapter(load_base(str(model), bits=32), path.parent)

    def imported(path: Path) -> None:
        read_lora(path.parent)

    return {
        "adapter's configuration": Case(ours / "adapter_config.json", JSON, lambda path: inspect(path.parent).table()),
        "adapter's weights": Case(
            ours / "adapter_model.safetensors", TENSORS, lambda path: inspect(path.parent).table()
        ),
        "adapter's configuration on a model": Case(ours / "adapter_config.json", JSON, load, slow=True),
        "adapter's weights on a model": Case(ours / "adapter_model.safetensors", TENSORS, load, slow=True),
        "PEFT's configuration": Case(plain / "adapter_config.json", JSON, imported),
        "PEFT's weights": Case(plain / "adapter_model.safetensors", TENSORS, imported),
        "PEFT's configuration on a model": Case(plain / "adapter_config.json", JSON, load, slow=True),
        "PEFT's weights on a model": Case(plain / "adapter_model.safetensors", TENSORS, load, slow=True),
        "loralib's file": Case(flat, TENSORS, lambda path: read_lora(path, 16.0)),
        "loralib's header": Case(flat, TENSORS, read_lora),
        "loralib's pickle": Case(root / "lora.pt", ANY, lambda path: read_lora(path, 16.0)),
    }


def models(root: Path, model: Path, finished: Path) -> dict[str, Case]:
    one = Path(shutil.copytree(model, root / "model"))
    several = Path(shutil.copytree(model, root / "several"))
    load_base(str(model), bits=32).save_pretrained(several, max_shard_size="40KB")
    (several / "model.safetensors").unlink()

    def build(path: Path) -> None:
        context_of(model_config(resolve_model(str(path.parent))))
        meta_model(path.parent)

    def load(path: Path) -> None:
        load_base(str(path.parent), bits=32)

    def tokenizer(path: Path) -> None:
        load_tokenizer(str(path.parent))("some text")

    return {
        "model's configuration": Case(one / "config.json", JSON, build, slow=True),
        "model's configuration and weights": Case(one / "config.json", JSON, load, slow=True),
        "base's weights": Case(one / "model.safetensors", TENSORS, lambda path: read_base(path.parent), slow=True),
        "model's weights": Case(one / "model.safetensors", TENSORS, load, slow=True),
        "index": Case(several / "model.safetensors.index.json", JSON, lambda path: read_base(path.parent), slow=True),
        "tokenizer": Case(one / "tokenizer.json", JSON, tokenizer, slow=True),
        "tokenizer's configuration": Case(one / "tokenizer_config.json", JSON, tokenizer, slow=True),
    }


def runs(root: Path, model: Path, finished: Path) -> dict[str, Case]:
    run = Path(shutil.copytree(finished, root / "run"))
    point = run / "checkpoint-1"
    result = {**json.loads((finished / "result.json").read_text()), "files": {"adapter": {"bytes": 1, "elements": 2}}}
    result["metrics"]["course"] = [{"step": 1, "eval_loss": 2.0}, {"step": 2, "eval_loss": 1.5}]
    told = json.loads((run / "settings.json").read_text())
    rows = {name: tuple(tuple(float(a == b) for a in range(3)) for b in range(3)) for name in MEASURES}
    through = dict.fromkeys(MEASURES, (1.0, 0.5, 0.5))
    Similarity("m", {"num_hidden_layers": 3}, "s", "d", 5, 64, rows, through).write(root / "similarity.json")
    record = Record("cola", ("no", "yes"), "lora", {"lora_r": 4}, "roberta", "abc", 128, 1.0)
    record.write(root / "glue", 2.0)
    save_file({"head": ones(2, 2)}, root / "glue" / "trained.safetensors", {"format": "pt", "note": "x"})
    facts = {"value": "0.5", "step": "3", "epoch": "1.0"}
    save_file({"head": ones(2, 2)}, written(root / "glue" / "selected.safetensors", ""), facts)
    ablation = Run(root / "ablation", ("--seed", "1"), (("a.py", "x"),), 1.0)
    plan = {"sites": [{"path": "*.q_proj", "a": "q/*", "b": "{kind}/{layer}", "r": 2, "d_in": 8}]}
    measures: Any = dict.fromkeys(("alpaca", "code"), None)

    def courses(path: Path) -> None:
        for experiment in read_experiments([path.parent]):
            experiment.courses("eval_loss")

    def resumable(path: Path) -> None:
        _resumable(path.parent)

    return {
        "result": Case(
            written(root / "result" / "result.json", result), JSON, lambda path: compare([path], by_seed=True)
        ),
        "upstream's result": Case(
            written(root / "upstream" / "all_results.json", {"eval_loss": 1.0, "train_runtime": 3.0, "epoch": 1}),
            JSON,
            lambda path: compare([path.parent]),
        ),
        "course": Case(written(root / "course" / "result.json", result), JSON, courses),
        "course in a table": Case(
            written(
                written(root / "logged" / "result.json", {**result, "metrics": {}}).with_name("loss.csv"),
                "step,eval_loss\n1,2.0\n2,1.0\n",
            ),
            WORDS,
            courses,
        ),
        "similarity": Case(
            root / "similarity.json", JSON, lambda path: strict(read_similarity(path).matrix(COSINE), 0.5)
        ),
        "plan by hand": Case(
            written(root / "plan.json", plan), JSON, lambda path: plan_from_rows(read_json(path), SITES, 4)
        ),
        "Trainer's state": Case(point / "trainer_state.json", JSON, resumable),
        "manifest": Case(point / "manifest.json", JSON, lambda path: damage(path.parent)),
        "state of a run": Case(point / "training_state.safetensors", TENSORS, lambda path: load_state(path, PARTS)),
        "marker": Case(run / "completed", JSON, lambda path: look(run, told, True)),
        "settings of a run": Case(run / "settings.json", JSON, lambda path: look(run, told, True)),
        "stage": Case(
            written(root / "scores.json", {"scores": {"alpaca": 0.5, "code": 1}, "seconds": 3.0}),
            JSON,
            lambda path: read_stage(path, measures),
        ),
        "GLUE's record": Case(root / "glue" / "glue_task.json", JSON, lambda path: read_record(path.parent)),
        "GLUE's weights": Case(root / "glue" / "trained.safetensors", TENSORS, read_weights),
        "GLUE's best weights": Case(
            root / "glue" / "selected.safetensors", TENSORS, lambda path: Selection("accuracy").load(path.parent)
        ),
        "end of an ablation's run": Case(
            written(ablation.folder / ENDED, ablation.settings), JSON, lambda path: is_done(ablation)
        ),
    }


def settings(root: Path, model: Path, finished: Path) -> dict[str, Case]:
    run = "lora_r: 8\nbf16: true\nlearning_rate: 1e-4\nlora_modules: [q_proj, v_proj]\noptim_args: {eps: 1e-8}\n"
    grid = {
        "flags": {"lora_r": 4},
        "seeds": [0, 1],
        "ablations": {"rank": {"lora_r": [2, 4]}, "t": [{"label": "x", "lora_r": 9}]},
    }
    more = "base: &base {a: 1, b: [1, 2]}\nother: {<<: *base, c: ~}\nlist: [*base, *base]\ntext: |\n  two\n  lines\n"
    return {
        "YAML": Case(written(root / "run.yaml", run), WORDS, lambda path: parse(["--config", str(path)])),
        "YAML with aliases": Case(written(root / "more.yaml", more), WORDS, lambda path: typed(read_settings(path))),
        "JSON settings": Case(
            written(root / "run.json", {"lora_r": 8, "bf16": True, "lora_modules": ["q_proj"], "seed": 3}),
            JSON,
            lambda path: parse(["--config", str(path)]),
        ),
        "grid": Case(written(root / "grid.json", grid), JSON, read_grid),
        "grid as YAML": Case(written(root / "grid.yaml", json.dumps(grid, indent=1)), WORDS, read_grid),
    }


def data(root: Path, model: Path, finished: Path) -> dict[str, Case]:
    def rows(path: Path) -> None:
        found = read_rows(path)
        format_rows(found, format_of(found))

    def chat(path: Path) -> None:
        format_rows(read_rows(path), "chat", chat=True)

    table = [[*ALPACA[0]], *([str(value) for value in row.values()] for row in ALPACA)]
    csv, tsv = ("".join(separator.join(row) + "\n" for row in table) for separator in (",", "\t"))
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in ALPACA).encode(), mtime=0)
    parquet.write_table(pyarrow.Table.from_pylist(ALPACA), root / "rows.parquet", compression="none")
    odd = {"messages": [[{"role": "user"}]], "when": [1], "bytes": [b"x"]}
    roles = pyarrow.list_(pyarrow.struct({"role": pyarrow.string()}))
    schema = pyarrow.schema({"messages": roles, "when": pyarrow.timestamp("ns"), "bytes": pyarrow.binary()})
    parquet.write_table(pyarrow.table(odd, schema), root / "odd.parquet")
    xml = (
        "<benchmark><entries><entry category='A' eid='1'><modifiedtripleset><mtriple>a | b | c</mtriple>"
        "</modifiedtripleset><lex comment='good'>A b c.</lex></entry></entries></benchmark>"
    )
    cola = "".join(f"gj04\t{n % 2}\t*\tA sentence {n}.\n" for n in range(4))
    return {
        "json": Case(written(root / "rows.json", ALPACA), JSON, rows),
        "jsonl": Case(lines(root / "rows.jsonl", ALPACA), LINES, rows),
        "turns": Case(lines(root / "chat.jsonl", CHAT), LINES, chat),
        "csv": Case(written(root / "rows.csv", csv), WORDS, rows),
        "tsv": Case(written(root / "rows.tsv", tsv), WORDS, rows),
        "gzip": Case(written(root / "rows.jsonl.gz", packed), ANY, rows),
        "parquet": Case(root / "rows.parquet", ANY, rows),
        "parquet of lists": Case(root / "odd.parquet", ANY, read_rows),
        "xml": Case(written(root / "rows.xml", xml), WORDS, read_file),
        "text": Case(written(root / "rows.txt", "name : x | food : y||A text.\nname : z||B text.\n"), WORDS, read_file),
        "meanings": Case(
            written(root / "mr.csv", 'mr,ref\n"name[Blue Spice], eatType[pub]",A pub.\n"name[X]",B.\n'),
            WORDS,
            read_file,
        ),
        "CoLA": Case(
            written(root / "cola.tsv", cola), WORDS, lambda path: read_split(path, glue_task("cola"), "train")
        ),
        "tokens": Case(
            lines(root / "ids.jsonl", [{"context": [1, 2], "completion": [3]}] * 3),
            LINES,
            lambda path: read_ids(path, 320),
        ),
        "predictions": Case(
            lines(root / "predicted.jsonl", [{"id": n, "predict": [1, 2]} for n in range(3)]),
            LINES,
            lambda path: read_predictions(path, 320, 3),
        ),
    }


def stores(root: Path, model: Path, finished: Path) -> dict[str, Case]:
    told = {"model": "m", "seed": 1}
    for store, new in _new(root / "stores", told):
        store.add(new)
    judge = Judge("http://localhost:1", "m")
    rules = {"llava_bench_conv": {"role": "Assistant", "prompt": "Rate."}}

    def ruled(path: Path) -> None:
        Judge("http://localhost:1", "m", rules=read_rules(path))._rule("conv")

    class Tokenizer:
        chat_template = None

    answer = {"choices": [{"message": {"content": "8 9\nbecause"}}]}
    return {
        "texts": Case(root / "stores/generations.jsonl", LINES, lambda path: TextStore(path.parent, told)),
        "hypotheses": Case(root / "stores/hypotheses.jsonl", LINES, lambda path: HypothesisStore(path.parent, told)),
        "outcomes": Case(root / "stores/outcomes.jsonl", LINES, lambda path: OutcomeStore(path.parent)),
        "reviews": Case(root / "stores/judged.jsonl", LINES, lambda path: ReviewStore(path.parent, told)),
        "judge's answer": Case(written(root / "answer", answer), JSON, lambda path: judge._words(path.read_bytes())),
        "judge's rules": Case(written(root / "rule.json", rules), JSON, ruled),
        "chat template": Case(
            written(root / "t.jinja", "{{ x }}"), ANY, lambda path: find_template(str(path), Tokenizer())
        ),
    }


def _new(folder: Path, settings: dict[str, Any]) -> list[tuple[Any, Any]]:
    texts = {(n, 0): Generated(f"text {n}", 3, "eos", 0.5) for n in range(3)}
    return [
        (TextStore(folder, settings), texts),
        (HypothesisStore(folder, settings), {n: Hypothesis((1, 2), -0.5) for n in range(3)}),
        (OutcomeStore(folder), {"a": Outcome(True, "passed", "", 0.1), "b": Outcome(False, "failed", "x", 0.1)}),
        (ReviewStore(folder, settings), {1: "8 9", 2: "7 7"}),
    ]


def fault(read: Read, path: Path) -> str | None:
    """What is wrong with how a file is read; None if it is read, or refused in one line, soon."""
    began = time.monotonic()
    problem = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(path)
        except UserError as error:
            message = str(error)
            problem = None if len(message.splitlines()) == 1 and len(message) < 4000 else f"says {message!r}"
        except BaseException as error:  # a panic of Rust code is no Exception
            problem = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    return problem or (f"took {seconds:.1f} s" if seconds > SECONDS else None)


def attack(case: Case, name: str, count: int) -> list[str]:
    """Read mutated files; return what went wrong, with the number of the file."""
    good = case.file.read_bytes()
    faults = []
    assert fault(case.read, case.file) is None, f"the good file: {fault(case.read, case.file)}"
    try:
        for number in range(count):
            chance = random.Random(f"{name} {number}")
            case.file.write_bytes(chance.choice(case.mutations)(chance, good))
            if problem := fault(case.read, case.file):
                faults.append(f"{number}: {problem[:300]}")
    finally:
        case.file.write_bytes(good)
    return faults


GROUPS = (adapters, models, runs, settings, data, stores)
# Files of each case: where reading takes milliseconds, and where it takes more.
FAST, SLOW, FEW = 150, 40, 6


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_damaged_files(
    group: Callable[..., dict[str, Case]], model_folder: Path, finished: Path, tmp_path: Path
) -> None:
    cases = group(tmp_path, model_folder, finished)
    faults = {name: attack(case, name, SLOW if case.slow else FAST) for name, case in cases.items()}
    assert {name: found for name, found in faults.items() if found} == {}


def test_some_damaged_files(model_folder: Path, finished: Path, tmp_path: Path) -> None:
    cases = {name: case for group in GROUPS for name, case in group(tmp_path, model_folder, finished).items()}
    assert sum(SLOW if case.slow else FAST for case in cases.values()) >= 5000
    faults = {name: attack(case, name, FEW) for name, case in cases.items() if not case.slow}
    assert {name: found for name, found in faults.items() if found} == {}
