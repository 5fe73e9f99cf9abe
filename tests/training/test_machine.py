"""Devices and optimizers."""

from __future__ import annotations

import pytest
import torch

from sharelora.support.errors import UserError
from sharelora.trainer import devices


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as far as the question of placement goes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_one_process_spreads_the_model(gpus: None) -> None:
    assert devices.device_map(1000, use_cpu=False) == {"device_map": "auto", "max_memory": {0: "1000MB", 1: "1000MB"}}


def test_each_of_several_processes_takes_its_own_gpu(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.device_map(1000, use_cpu=False) == {"device_map": {"": 1}}


def test_without_a_gpu_nothing_is_placed(gpus: None) -> None:
    assert devices.device_map(1000, use_cpu=True) == {}


def test_a_model_that_was_put_aside_is_refused(gpus: None) -> None:
    devices.require_on_gpu({"model.layers.0": 0, "lm_head": 1}, use_cpu=False)
    with pytest.raises(UserError, match=r"1 parts, first lm_head, are not on a GPU.*--max_memory_MB"):
        devices.require_on_gpu({"model.layers.0": 0, "lm_head": "cpu"}, use_cpu=False)


def test_paged_optimizers_need_a_gpu(gpus: None) -> None:
    assert devices.choose_optimizer("paged_adamw_32bit", use_cpu=False) == ("paged_adamw_32bit", None)
    name, notice = devices.choose_optimizer("paged_adamw_32bit", use_cpu=True)
    assert name == "adamw_torch" and "needs a CUDA GPU; adamw_torch takes its place" in str(notice)
    with pytest.raises(UserError, match="paged_lion_32bit; need a CUDA GPU"):
        devices.choose_optimizer("paged_lion_32bit", use_cpu=True)


def test_bitsandbytes_optimizers_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bitsandbytes", lambda: False)
    assert devices.choose_optimizer("adamw_bnb_8bit", use_cpu=True)[0] == "adamw_torch"
    assert devices.choose_optimizer("adamw_torch", use_cpu=True) == ("adamw_torch", None)
    with pytest.raises(UserError, match="need bitsandbytes"):
        devices.choose_optimizer("lion_8bit", use_cpu=True)
