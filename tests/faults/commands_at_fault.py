"""Runs commands in forked children, which start at once because everything is imported already.

Reads one request a line from stdin, as JSON, and answers each with one line:
    {"words": [...], "log": FILE, "faults": {...}}   starts a run; the answer is its process id
    {"wait": PID}                                    waits for it; the answer is its exit code
A request to start may also have a "job" (the main one by default; `sharelora.cli` is the command `sharelora`) and an
"environment" to add.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from typing import Any

CLI = "sharelora.cli"
# What Python says when it opens, renames or removes something.
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_file_event(folder: str, count: int) -> None:
    """Kill this process at its Nth touch of a folder: in the middle of saving, renaming, rotating and tidying."""
    left = [count]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in EVENTS and (str(args[0]).startswith(folder) or (event in EVENTS[2:4] and args[-1] != -1)):
            left[0] -= 1
            if left[0] == 0:
                kill()

    sys.addaudithook(hook)


def at_call(name: str, count: int, action: Any) -> None:
    """Act at the Nth call of a callback: `on_step_begin` while training, `on_prediction_step` while evaluating."""
    from sharelora.trainer.callbacks import Progress

    left, own = [count], getattr(Progress, name)

    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            action()
        return own(self, *args, **kwargs)

    setattr(Progress, name, hook)


def drop_capabilities() -> None:
    """Let the permissions of files count for root too."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def jumping_clock() -> None:
    """A clock that is set back an hour at every other look."""
    real, looks = time.time, [0]

    def jump() -> float:
        looks[0] += 1
        return real() - 3600 * (looks[0] % 2)

    time.time = jump


def at_loss(count: int) -> None:
    """A loss that is infinite at the Nth batch of this process."""
    from sharelora.training.trainer import ShareTrainer

    left, own = [count], ShareTrainer.compute_loss

    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        return own(self, *args, **kwargs) * (float("inf") if left[0] == 0 else 1)

    ShareTrainer.compute_loss = hook


def drift(count: int) -> None:
    """A weight that changes by itself before the Nth update, by one bit in the last place."""
    from sharelora.trainer.callbacks import Progress

    left = [count]

    def hook(self: Any, *args: Any, model: Any = None, **kwargs: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            weight = next(value for value in model.parameters() if value.requires_grad)
            weight.data.flatten()[:1].mul_(1 + 2**-20)

    Progress.on_pre_optimizer_step = hook


def apply(faults: dict[str, Any]) -> None:
    """Prepare what is to go wrong in this process."""
    if "file_event" in faults:
        at_file_event(*faults["file_event"])
    if "step" in faults:
        at_call("on_step_begin", faults["step"], kill)
    if "evaluation" in faults:
        at_call("on_prediction_step", faults["evaluation"], kill)
    if "infinite_loss" in faults:
        at_loss(faults["infinite_loss"])
    if "drift" in faults:
        drift(faults["drift"])
    if "signals" in faults:
        name, count, numbers = faults["signals"]
        at_call(name, count, lambda: [os.kill(os.getpid(), number) for number in numbers])
    if "largest_file" in faults:
        resource.setrlimit(resource.RLIMIT_FSIZE, (faults["largest_file"],) * 2)
    if "read_only_at" in faults:
        folder, step = faults["read_only_at"]
        drop_capabilities()
        at_call("on_step_begin", step, lambda: os.chmod(folder, 0o500))
    if "long_evaluation" in faults:
        at_call("on_prediction_step", 1, lambda: time.sleep(faults["long_evaluation"]))
    if "sleep_at" in faults:
        at_call("on_step_begin", faults["sleep_at"], lambda: time.sleep(60))
    if faults.get("no_capabilities"):
        drop_capabilities()
    if faults.get("clock"):
        jumping_clock()
    if faults.get("kill_point"):
        from ckpt_chaos.targets.common import arm_from_env  # says by its variables where

        arm_from_env(0, lazy=True)


def shard_on_cpus() -> None:
    """Let accelerate shard on CPUs as it does on GPUs; by itself it trains whole copies there."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    from sharelora.trainer import unsupported

    own = AcceleratorState.__init__

    def make(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        own(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = make
    unsupported.RULES = tuple(rule for rule in unsupported.RULES if rule.name != "FSDP2 without GPUs")


def cut_small_matrices() -> None:
    """Let ZeRO-3 cut every matrix; by itself it leaves those of a small model whole."""
    from accelerate.utils import DeepSpeedPlugin

    own = DeepSpeedPlugin.__post_init__

    def make(self: Any) -> None:
        own(self)
        self.hf_ds_config.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    DeepSpeedPlugin.__post_init__ = make


def work(request: dict[str, Any]) -> int:
    """Run one command; returns its exit code."""
    os.environ.update(request.get("environment", {}))
    if os.environ.get("ACCELERATE_USE_FSDP"):
        shard_on_cpus()
    if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        cut_small_matrices()
    from sharelora.cli import commands
    from sharelora.flags import program
    from sharelora.reporting import history
    from sharelora.support.errors import run_main

    name, words = request.get("job", "sharelora.training.instructions"), request["words"]
    job = None if name == CLI else importlib.import_module(f"{name}.job")
    log = open(request["log"], "w", buffering=1, encoding="utf-8")
    os.dup2(log.fileno(), 2)
    os.dup2(log.fileno(), 1)
    sys.stdout = sys.stderr = log
    history._plot = lambda rows: b"no plot in this test"
    apply(request["faults"])
    try:
        run_main(lambda: program.start(lambda: job.parse(words), job.run) if job else commands.main(words))
    except SystemExit as end:
        return int(end.code or 0)


def serve() -> None:
    """Answer requests until stdin ends."""
    for name in ("sharelora.training.instructions.job", *sys.argv[1:]):
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                code = 70
                try:
                    code = work(request)
                finally:
                    sys.stdout.flush()
                    os._exit(code)
        print(answer, flush=True)


if __name__ == "__main__":
    serve()
