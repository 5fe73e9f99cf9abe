"""Optimizers of PEFT that look for the matrices of a layer by the names of parameters, which the bank does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sharelora.support.errors import UserError


def refuse_lorafa(params: Any, bank: str) -> None:
    """Refuse LoRA-FA, which takes parameters as pairs of an A and the B behind it; the bank has no pairs.

    Args:
        params: groups of parameters, as an optimizer takes them.
        bank: what comes before the name of a matrix in that of its parameter.

    Raises:
        UserError: matrices of a bank are among the parameters. Those that PEFT froze before are trained again.
    """
    named: list[tuple[str, nn.Parameter]] = []
    for group in params:
        if isinstance(group, dict) and "names" in group:
            named += zip(group["names"], group["params"], strict=True)
    banked = [(name.partition(bank)[2], value) for name, value in named if bank in name]
    if not banked:
        return
    trained = tuple(f"{name.partition('.')[0]}.lora_A" for name, value in banked if value.requires_grad)
    for name, value in banked:
        if name.startswith(trained):
            value.requires_grad_(True)
    raise UserError(
        "LoRA-FA needs an A and a B of its own for every layer, and ShareLoRA keeps each matrix once; "
        "use another optimizer, or peft's LoraConfig"
    )


def trained_pairs(tuner: Any) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Return A and B of every site whose two matrices are trained, for Riemannian preconditioning.

    It divides the gradient of A by B'B and that of B by AA', so each needs the one that it is multiplied by.

    Args:
        tuner: a ShareLoraModel.

    Returns:
        Matrices of two dimensions, (r, D_in) and (D_out, r); as with LoRA, embeddings and convolutions are left out.

    Raises:
        UserError: a matrix that is trained belongs to several pairs.
    """
    pairs = []
    for adapter, plan in tuner.plans.items():
        bank = tuner.bank(adapter)
        if plan.shares and any(matrix.requires_grad for matrix in bank.values()):
            raise UserError(
                f"adapter {adapter!r} shares matrices, and Riemannian preconditioning (create_riemannian_optimizer) "
                "needs one B for every A; use another optimizer, or share='none'"
            )
        found = [(bank[entry.a], bank[entry.b]) for entry in plan.entries if not entry.site.embedding]
        pairs += [(a, b) for a, b in found if a.ndim == b.ndim == 2 and a.requires_grad and b.requires_grad]
    return pairs


def group_embeddings(optimizer: torch.optim.Optimizer, tuner: Any) -> None:
    """Move the matrices of embeddings to the group that LoRA+ has for them, with a rate of its own.

    LoRA+ knows embeddings by the layer that a parameter lies in; those of the bank lie in none.

    Args:
        optimizer: made by `create_loraplus_optimizer`, whose second group is that of embeddings, and not used yet.
        tuner: a ShareLoraModel.
    """
    names = [
        (adapter, name)
        for adapter, plan in tuner.plans.items()
        for name, sites in plan.users.items()
        if sites[0].embedding
    ]
    embeddings = {id(tuner.bank(adapter)[name]) for adapter, name in names}
    target = optimizer.param_groups[1]["params"]
    for group in optimizer.param_groups[:1] + optimizer.param_groups[2:]:
        target += [matrix for matrix in group["params"] if id(matrix) in embeddings]
        group["params"] = [matrix for matrix in group["params"] if id(matrix) not in embeddings]
