"""After a loss of power at any moment of a save, the last good state is read back, with the project's own readers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from power_loss import Disk, Loss, losses, restore
from saved_adapters import saved

from sharelora import UserError
from sharelora.convert import export_lora, merge
from sharelora.reporting.results import read_result, write_result
from sharelora.support.files import write_bytes
from sharelora.support.folders import atomic_folder, new_folder, recover
from sharelora.trainer.checkpoints import damage, new_checkpoint, rotate, step_of
from sharelora.training.arguments import ADAPTER
from sharelora.training.output import _WRITTEN, begin, finish, look

SETTINGS = {"lora_r": 4}
Check = Callable[[Path, Loss], None]


def save(out: Path, step: int, content: bytes) -> None:
    """Write a checkpoint as the Trainer does, and delete all but the last two."""
    with new_checkpoint(out, step) as folder:
        for name in ("adapter_model.safetensors", "training_state.safetensors"):
            (folder / name).write_bytes(content)
        (folder / "part").mkdir()
        (folder / "part" / "more").write_bytes(content)
    rotate(out, out / f"checkpoint-{step}", 2)


def train(disk: Disk) -> Check:
    """A run with four checkpoints, of which the last was there already, to its end."""
    out = disk.root / "runs" / "out"
    with disk.watched():
        begin(out, SETTINGS)
        for step in (1, 2, 3):
            save(out, step, b"first" * 50)
            disk.promise(step)
        save(out, 3, b"second" * 50)
        save(out, 4, b"second" * 50)
        disk.promise(4)
        with atomic_folder(out / ADAPTER) as folder:
            (folder / "adapter_model.safetensors").write_bytes(b"trained" * 50)
        write_bytes(out / "loss.csv", b"1")
        finish(out, out / ADAPTER, 4)
        disk.promise("finished")

    def check(found: Path, loss: Loss) -> None:
        out = found / "runs" / "out"
        if loss.promise is None and not out.is_dir():
            return
        recover(out, _WRITTEN)
        earlier = look(out, SETTINGS, training=True)
        if earlier.trained is not None:
            assert (earlier.trained / "adapter_model.safetensors").read_bytes() == b"trained" * 50
            return
        assert loss.promise != "finished"
        step = step_of(earlier.checkpoint) if earlier.checkpoint else 0
        assert step >= (loss.promise or 0)
        assert earlier.checkpoint is None or damage(earlier.checkpoint) is None
        assert not [path.name for path in out.glob(".*")]

    return check


def command(write: Callable[[Path], object], last: str) -> Callable[[Disk], Check]:
    """A command that writes a new folder."""

    def run(disk: Disk) -> Check:
        out = disk.root / "new" / "out"
        with disk.watched():
            write(out)
            disk.promise("all")
        expected = {path.name: path.read_bytes() for path in out.iterdir()}

        def again(out: Path) -> None:
            with new_folder(out, last) as folder:
                for name, content in expected.items():
                    (folder / name).write_bytes(content)

        def check(found: Path, loss: Loss) -> None:
            out = found / "new" / "out"
            if (out / last).exists():
                assert {name: (out / name).read_bytes() for name in expected} == expected
                with pytest.raises(UserError, match="exists already"):
                    again(out)
            else:
                assert loss.promise is None
                again(out)
            assert {path.name: path.read_bytes() for path in out.iterdir()} == expected

        return check

    return run


def results(disk: Disk) -> Check:
    """A result, and a later one of the same kind."""
    out = disk.root / "new" / "out"
    with disk.watched():
        for value in (1.0, 2.0):
            write_result(out, "train", SETTINGS, {"eval_loss": value})
            disk.promise(value)

    def check(found: Path, loss: Loss) -> None:
        file = found / "new" / "out" / "result.json"
        value = read_result(file).metrics["eval_loss"] if file.exists() else 0.0
        assert value in (0.0, 1.0, 2.0) and value >= (loss.promise or 0.0)

    return check


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    saved(folder, "a")
    return folder


def scene(name: str, inputs: Path) -> Callable[[Disk], Check]:
    base, adapter = inputs / "base", inputs / "adapter"
    scenes: dict[str, Callable[[Disk], Check]] = {
        "checkpoints": train,
        "export": command(lambda out: export_lora(adapter, out, base), "adapter_config.json"),
        "merge": command(lambda out: merge(base, adapter, out), "config.json"),
        "result": results,
    }
    return scenes[name]


SCENES = ("checkpoints", "export", "merge", "result")


def judge(disk: Disk, check: Check, place: Path, draws: int) -> int:
    """Look at everything that could be found; return how many states that were."""
    found, count = place / "found", 0
    for loss in losses(disk, draws):
        found.mkdir()
        restore(disk, loss, found)
        try:
            check(found, loss)
        except Exception as error:
            left = sorted(str(path.relative_to(found)) for path in found.rglob("*"))
            raise AssertionError(f"after step {loss.moment} of {len(disk.steps)}: found {left}") from error
        finally:
            shutil.rmtree(found)
        count += 1
    return count


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_the_last_good_state_is_read_back(tmp_path: Path, inputs: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    check = scene(name, inputs)(disk)
    count = judge(disk, check, tmp_path, draws=6)
    print(f"{name}: {len(disk.steps)} steps, {count} states")
    assert count > 15


@pytest.mark.slow
@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("name", SCENES)
def test_what_is_not_synced_would_be_lost(tmp_path: Path, inputs: Path, name: str, folders: bool) -> None:
    """If the same program had synced no files, or no folders."""
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    check = scene(name, inputs)(disk)
    disk.steps = [step for step in disk.steps if step.kind != "sync" or (step.inode in disk.folders) != folders]
    with pytest.raises(AssertionError, match="after step"):
        judge(disk, check, tmp_path, draws=0)
