"""Kill commands at each of their file events, with `ckpt-chaos` as the judge, and print what came of it as a table.

    python tests/faults/kill_points.py [NAME ...] [--points N]

A command is killed before it opens, renames or removes something in its output folder, and, where it writes a file,
with half of the file written. Then the same command is started again. It passes if it ends with the files of a run
that nothing interrupted, bit by bit, nothing else is left, and it went on from the newest whole checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent.parent)]
sys.path += [str(HERE), str(HERE.parent / "refusals"), str(HERE.parent / "core")]

from commands_at_fault import CLI  # noqa: E402
from faulty import Worker  # noqa: E402

ALL = 10**6
VERDICTS = ("PASS", "LOST_WORK", "SILENT_DIVERGENCE", "HARD_FAIL")
TRAIN = (
    "--bits 32 --use_cpu --optim adamw_torch --max_steps 4 --save_steps 2 --save_total_limit 9 --lora_r 2"
    " --lora_dropout 0.1 --per_device_train_batch_size 2 --gradient_accumulation_steps 1"
    " --gradient_checkpointing false --eval_dataset_size 4"
)


@dataclass(frozen=True)
class Scene:
    """A command to be killed.

    Attributes:
        job: module of the trainer, or of the command `sharelora`.
        words: its command line, with {inputs} and {out}.
        trains: whether it has checkpoints.
    """

    job: str
    words: str
    trains: bool = False


def _trainer(name: str, words: str) -> Scene:
    return Scene(f"sharelora.training.{name}", words, trains=True)


SCENES = {
    "qlora_share.py": _trainer(
        "instructions",
        "--model_name_or_path {inputs}/llama --dataset {inputs}/alpaca.jsonl --dataset_format alpaca --output_dir {out}"
        f" --share a {TRAIN}",
    ),
    "run_glue_share.py": _trainer(
        "glue",
        "--model_name_or_path {inputs}/roberta --task_name rte --output_dir {out} --do_train --do_eval --use_cpu"
        " --num_train_epochs 2 --max_train_samples 32 --method share_ab --save_total_limit 9",
    ),
    "gpt2_share_ft.py": _trainer(
        "nlg",
        "--init_checkpoint {inputs}/gpt2 --train_data {inputs}/nlg.txt --valid_data {inputs}/nlg.txt --work_dir {out}"
        " --train_batch_size 2 --grad_acc 1 --seq_len 64 --max_step 4 --save_interval 2 --eval_interval 2 --use_cpu",
    ),
    "llava_share.py": _trainer(
        "vision",
        "--model_name_or_path {inputs}/llava --data_path {inputs}/vision/llava/train.json --max_train_samples 8"
        f" --output_dir {{out}} --share a {TRAIN}",
    ),
    "sharelora export": Scene(CLI, "export {inputs}/adapter {out}/new --base {inputs}/llama"),
    "sharelora merge": Scene(CLI, "merge {inputs}/llama {inputs}/adapter {out}/new"),
    "sharelora compress": Scene(CLI, "compress {inputs}/lora {out}/new --share a --base {inputs}/llama"),
    "sharelora import": Scene(CLI, "import {inputs}/lora {out}/new --share none --base {inputs}/llama"),
    "sharelora similarity": Scene(
        CLI, "similarity --model {inputs}/llama --sample {inputs}/texts.txt --limit 8 --bits 32 --output {out}"
    ),
}


def make_inputs(folder: Path) -> Path:
    """Write everything that the commands read."""
    import inputs
    from peft import LoraConfig, get_peft_model
    from toy_models import shake
    from transformers import AutoModelForCausalLM

    made = inputs.write(folder)
    base = AutoModelForCausalLM.from_pretrained(made / "llama")
    lora = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    shake(lora).save_pretrained(made / "lora")
    return made


class Server:
    """Answers `ask.py`: runs a scene in a worker, or says what is in a folder."""

    def __init__(self, worker: Worker, inputs: Path, place: Path) -> None:
        self.worker, self.inputs, self.address = worker, inputs, str(place / "socket")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.address)
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._socket.accept()
            with client:
                request = json.loads(client.makefile().readline())
                what, name, out = request["words"]
                if what == "digest":
                    answer: dict[str, Any] = {"log": digest(Path(out)), "code": 0}
                else:
                    answer = self._run(SCENES[name], Path(out), request["environment"])
                client.sendall(json.dumps(answer).encode() + b"\n")

    def _run(self, scene: Scene, out: Path, environment: dict[str, str]) -> dict[str, Any]:
        words = [word.format(inputs=self.inputs, out=out) for word in scene.words.split()]
        kill = "CKPT_CHAOS_WATCH" in environment
        more = {"job": scene.job, "environment": {**environment, "SHARELORA_DATA": str(self.inputs / "data")}}
        ended = self.worker.wait(self.worker.start(words, more, kill_point=kill))
        code, log = ended.code, ended.log
        if not kill and not scene.trains and code == 2 and "exists already and is not an empty folder" in log:
            code = 0  # it was done before it was killed; what is there is judged
        return {"code": code, "log": f"{log}\nwent on from step {resumed_from(log, out)}"}


def resumed_from(log: str, out: Path) -> int:
    """The step that a run went on from, by its own words; a finished one has them all."""
    if found := re.search(r"resuming from \S*checkpoint-(\d+)", log):
        return int(found[1])
    if "nothing is trained again" in log:
        return int(json.loads((out / "completed").read_text())["steps"])
    return 0


def digest(out: Path) -> str:
    """What must be the same after a kill: all weights and states, what a command computes, and that nothing is left.

    Of a run's other files, which tell times, only that its results can be read.
    """
    from sharelora.reporting.results import read_results

    lines = []
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if any(part.startswith(".") for part in Path(name).parts):
            lines.append(f"left behind: {name}")
        elif path.suffix == ".safetensors" or not (out / "settings.json").exists():
            lines.append(f"{name} {_checksum(path)}")
    if (out / "settings.json").exists():
        lines.append(f"results: {sorted({result.path.parent.name for result in read_results(out)} - {out.name})}")
    return "\n".join(lines)


def _checksum(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".safetensors":  # its header keeps what is said about the tensors in any order
        size = int.from_bytes(data[:8], "little")
        data = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode() + data[8 + size :]
    return hashlib.sha256(data).hexdigest()


def judge(name: str, server: Server, place: Path, points: int = ALL) -> list[Any]:
    """Kill one command at its file events.

    Args:
        name: of the scene.
        server: runs it.
        place: an empty folder.
        points: at most so many kills, spread evenly.

    Returns:
        ckpt-chaos' rows, one for each kill.
    """
    from ckpt_chaos.byo import run_byo

    ask = [sys.executable, str(HERE / "ask.py"), server.address]
    trains = {"checkpoint_glob": "{out}/checkpoint-*", "step_regex": r"went on from step (\d+)", "ignore_size": True}
    # Sizes vary with the times in a checkpoint's log; what is torn would differ in its names, or in what comes of it.
    control, *rows = run_byo(
        [*ask, "run", name, "{out}"],
        None,
        place,
        max_points=points,
        result_cmd=" ".join([*ask, "digest", f"'{name}'", "{out}"]),
        **(trains if SCENES[name].trains else {}),
    )
    assert control.verdict == "PASS", control  # two runs without a kill are the same
    return rows


def summary(name: str, rows: list[Any]) -> str:
    """One line of the table."""
    verdicts = Counter(row.verdict for row in rows)
    numbers = [len(rows), sum(row.crashed for row in rows), *(verdicts[verdict] for verdict in VERDICTS)]
    return f"| `{name}` | {' | '.join(map(str, numbers))} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCENES)}; all if none is given")
    parser.add_argument("--points", type=int, default=ALL, help="at most so many kills of each command, spread evenly")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, lines = Path(folder), []
        made = make_inputs(place / "inputs")
        worker = Worker(place, *(f"{scene.job}.job" for scene in SCENES.values() if scene.trains), "sharelora.convert")
        server = Server(worker, made, place)
        for number, name in enumerate(args.names or SCENES):
            rows = judge(name, server, place / str(number), args.points)
            lines.append(summary(name, rows))
            for row in rows:
                if row.verdict != "PASS":
                    print(name, row)
            print(lines[-1], flush=True)
        worker.close()
    head = ["command", "points", "stopped", "passed", "lost work", "other result", "failed"]
    print("\n".join(["", f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|", *lines]))


if __name__ == "__main__":
    main()
