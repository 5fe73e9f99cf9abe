"""A tiny LLaVA that has hardly been trained, made images, and a short run of the job."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "training"))
from small_vision import Job

from sharelora.data.vision import ConversationWriter, ImageReader, image_reader
from sharelora.models.vision import load_processor
from sharelora.tiny import ensure_tiny, tiny_vision_data
from sharelora.training.vision.job import VisionArguments, parse, run


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the project's own small models and data are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def llava(cache: Path) -> Path:
    """The tiny LLaVA's folder."""
    return ensure_tiny("llava", cache, steps=2, progress=lambda done, total: None)


@pytest.fixture(scope="session")
def made(cache: Path) -> Path:
    """The folder of made data: `llava` and `llava_bench`."""
    return tiny_vision_data(cache)


@pytest.fixture(scope="session")
def reader(llava: Path) -> ImageReader:
    """The tiny LLaVA's processor."""
    return image_reader(load_processor(str(llava)))


@pytest.fixture(scope="session")
def writer(reader: ImageReader) -> ConversationWriter:
    """Writes conversations as LLaVA-1.5 does."""
    return ConversationWriter(reader, "vicuna")


@pytest.fixture
def flags(llava: Path, made: Path, tmp_path: Path) -> dict[str, str]:
    """A short run."""
    return {
        "model_name_or_path": str(llava),
        "data_path": str(made / "llava" / "train.json"),
        "output_dir": str(tmp_path / "out"),
        "bits": "32",
        "use_cpu": "true",
        "max_train_samples": "16",
        "eval_dataset_size": "8",
        "max_steps": "2",
        "logging_steps": "1",
        "save_steps": "2",
        "lora_r": "4",
        "per_device_train_batch_size": "4",
        "gradient_accumulation_steps": "1",
        "gradient_checkpointing": "false",
        "share": "a",
    }


@pytest.fixture
def job(flags: dict[str, str]) -> Job:
    """Runs the job with more flags: job(share="b"); returns the parsed arguments."""

    def start(**more: str) -> VisionArguments:
        words = [word for name, value in {**flags, **more}.items() for word in (f"--{name}", value)]
        args = parse(words)
        run(args)
        return args

    return start
