"""One of the processes that train a tiny model together; started by test_distributed.py."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "core"))
from toy_models import QKV, adapted, bank, checkpoint_layers, llama, shake, tokens

from sharelora import UserError

STEPS = 3
PLANS: dict[str, dict[str, Any]] = {
    "none": {"share": "none"},
    "a": {"share": "a"},
    "both": {"share": "ab", "share_across": "both", "target_modules": "all-linear"},
    "tied": {"share": "a", "share_across": "modules", "target_modules": QKV},
}


def ddp(model: PeftModel) -> nn.Module:
    return DistributedDataParallel(model)


def fsdp1(model: PeftModel) -> nn.Module:
    policy = partial(transformer_auto_wrap_policy, transformer_layer_cls={LlamaDecoderLayer})
    return FullyShardedDataParallel(
        model,
        auto_wrap_policy=policy,
        use_orig_params=True,
        sharding_strategy=ShardingStrategy.FULL_SHARD,
        device_id=torch.device("cpu"),
    )


def fsdp2(model: PeftModel) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WRAPS: dict[str, Callable[[PeftModel], nn.Module]] = {"ddp": ddp, "fsdp1": fsdp1, "fsdp2": fsdp2}


def batches(rank: int, world: int) -> list[Tensor]:
    """This process's part of each step's batch."""
    return [tokens(4, seed=step).chunk(world)[rank] for step in range(STEPS)]


def train(model: nn.Module, rank: int = 0, world: int = 1) -> list[float]:
    """Losses of a few steps over the whole batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for ids in batches(rank, world):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if world > 1:
            dist.all_reduce(losses[-1])
    return [loss.item() / world for loss in losses]


def digest(weights: dict[str, Tensor]) -> str:
    """A fingerprint of adapter weights."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode())
        total.update(weights[name].detach().numpy().tobytes())
    return total.hexdigest()


def gathered(wrapped: nn.Module, model: PeftModel) -> dict[str, Tensor]:
    """The whole matrices, wherever their parts are."""
    if isinstance(wrapped, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(wrapped, writeback=False):
            return {name: value.detach().clone() for name, value in bank(model).items()}
    return {name: getattr(value, "full_tensor", lambda v=value: v)() for name, value in bank(model).items()}


def run(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one way and report losses, the weights' fingerprint, or the refusal."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = shake(adapted(llama(), task_type=case.get("task"), **PLANS[case["plan"]])).train()
    if "reentrant" in case:
        checkpoint_layers(model, case["reentrant"])
    wrapped = WRAPS[case["wrap"]](model)
    try:
        losses = train(wrapped, rank, world)
    except UserError as error:
        return {"refused": str(error)}
    result = {"losses": losses, "weights": digest(gathered(wrapped, model))}
    if case.get("save"):
        save(wrapped, model, folder / case["save"])
    return result


def save(wrapped: nn.Module, model: PeftModel, folder: Path) -> None:
    """Save as trainers do: everybody gathers, the first process writes."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        model.save_pretrained(folder, state_dict=state)
    dist.barrier()


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[1]).parent
    dist.init_process_group("gloo")
    results = {name: run(case, folder) for name, case in cases.items()}
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
