"""The random generators that training draws from, taken and put back."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
from transformers import set_seed

Random = dict[str, Any]


def random_state() -> Random:
    """Return the state of every generator of this process: Python, numpy, torch, and each GPU that it may use."""
    # One process may spread a model over several GPUs, each of which draws its own dropout.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Random) -> None:
    """Put every generator into a state that `random_state` returned; GPUs that are not there any more are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda, device)


def derive_random_state(seed: int, step: int, rank: int) -> None:
    """Seed every generator with a number of this process's own, which is the same whenever it is asked for.

    Args:
        seed: of the run.
        step: updates so far.
        rank: of this process.
    """
    set_seed(int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:4], "big"))
