"""No name in a file of data, settings or results leads a command to write outside of its output folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks.scores.corpus import read_texts
from sharelora.support.errors import UserError
from sharelora.trainer.checkpoints import damage, find, write_manifest
from sharelora.training.ablation.grid import folder_name, read_grid
from sharelora.training.ablation.runs import plan_runs
from sharelora.training.instructions.job import parse, run

AWAY = ("../away.txt", "/tmp/away.txt", "a/../../away.txt")


def all_files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_read_in_place(tmp_path: Path, kind: str) -> None:
    """Whatever their members are called, nothing is unpacked."""
    archive = tmp_path / "inside" / f"texts.{kind}"
    archive.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name in AWAY:
                packed.writestr(name, "text")
    else:
        with tarfile.open(archive, "w") as packed_tar:
            for name in AWAY:
                member = tarfile.TarInfo(name)
                member.size = 4
                packed_tar.addfile(member, io.BytesIO(b"text"))
    before = all_files(tmp_path)
    assert len(read_texts(archive)) == len(AWAY)
    assert all_files(tmp_path) == before and not Path("/tmp/away.txt").exists()


@pytest.mark.parametrize("name", ["../../away", "/tmp/away", "..", ".", "a/../../../away", "~/away", "a\0b"])
def test_names_in_a_grid_become_folders_inside(command: list[str], tmp_path: Path, name: str) -> None:
    assert (tmp_path / folder_name(name)).resolve().parent == tmp_path
    flags = dict(zip((word.removeprefix("--") for word in command[:4:2]), command[1:4:2], strict=True))
    grid = {"flags": flags, "metric": "train_loss", "ablations": {name: [{"label": name, "lora_r": 2}]}}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    (found,) = plan_runs(read_grid(tmp_path / "grid.yaml"), tmp_path / "runs").values()
    assert (tmp_path / "runs").resolve() in found.folder.resolve().parents


@pytest.mark.parametrize("field", ["output_dir", "run_name"])
def test_a_grid_cannot_say_where_a_run_writes(tmp_path: Path, field: str) -> None:
    (tmp_path / "grid.yaml").write_text(
        json.dumps({"flags": {field: "/tmp/away"}, "ablations": {"a": {"lora_r": [2]}}})
    )
    with pytest.raises(UserError, match=f"found {field}, which the grid decides itself"):
        read_grid(tmp_path / "grid.yaml")


def test_a_marker_cannot_name_a_folder_elsewhere(command: list[str], out: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "adapter_model", tmp_path / "elsewhere")
    (out / "completed").write_text(json.dumps({"trained": "../elsewhere", "steps": 2}))
    with pytest.raises(UserError, match=r"names \.\./elsewhere; need adapter_model or model"):
        run(parse([*command, "--output_dir", str(out)]))


def test_a_checkpoint_cannot_name_a_best_one_elsewhere(command: list[str], out: Path, tmp_path: Path) -> None:
    """Its step counts, not the path that stands in it."""
    state = out / "checkpoint-1" / "trainer_state.json"
    fields = {**json.loads(state.read_text()), "best_model_checkpoint": str(tmp_path), "best_global_step": "../x"}
    state.write_text(json.dumps(fields))
    assert find(out).good is None
    write_manifest(out / "checkpoint-1", 1)
    with pytest.raises(UserError, match=r"trainer_state.json has '../x' as best_global_step; need a whole number"):
        run(parse([*command, "--output_dir", str(out)]))


def test_a_link_is_no_file_of_a_checkpoint(out: Path, tmp_path: Path) -> None:
    place = out / "checkpoint-1"
    shutil.copy(place / "adapter_model.safetensors", tmp_path / "same")
    (place / "adapter_model.safetensors").unlink()
    os.symlink(tmp_path / "same", place / "adapter_model.safetensors")
    assert damage(place) == "adapter_model.safetensors is outside of it"
