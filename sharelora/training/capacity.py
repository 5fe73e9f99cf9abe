"""The plan of a run and the memory it will take, from the model's shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sharelora.architectures import meta_model
from sharelora.errors import UserError
from sharelora.machine import Machine, machine
from sharelora.memory import FACTORED, STATES, Estimate, estimate
from sharelora.plan import SharingPlan
from sharelora.share_flags import plan_from
from sharelora.training.arguments import Arguments
from sharelora.training.machine import choose_optimizer, on_gpu, processes
from sharelora.training.precision import Precision


@dataclass(frozen=True)
class Outlook:
    """What is going to be trained and what it takes.

    Attributes:
        plan: which matrices there are.
        need: the estimate.
        there: this machine.
    """

    plan: SharingPlan
    need: Estimate
    there: Machine

    def __str__(self) -> str:
        return f"{self.plan.table()}\n\n{self.need.table()}\n{self.need.verdict(self.there)}"


def outlook(args: Arguments, place: str, precision: Precision, beside: Sequence[str] = ()) -> Outlook:
    """Plan the adapters on the meta device and estimate the memory.

    Args:
        args: the command line.
        place: the base's folder, hub id or known name.
        precision: of the base.
        beside: modules of the base that are trained as a whole.

    Raises:
        UserError: sharing flags that do not fit the model.
    """
    model = meta_model(place, args.model.trust_remote_code)
    plan = plan_from(args.flags, model)
    optimizer, _ = choose_optimizer(args.train["optim"], args.train["use_cpu"])
    need = estimate(
        model,
        plan,
        bits=precision.bits,
        dtype=precision.dtype,
        batch=args.train["per_device_train_batch_size"],
        tokens=args.data.row_len,
        optimizer=optimizer if optimizer in (*STATES, FACTORED) else "adamw_torch",
        checkpointing=args.train["activation_checkpointing"],
        lora_dropout=args.flags.lora_dropout,
        double_quant=args.model.double_quant,
        extra_trainable=sum(p.numel() for name, p in model.named_parameters() if set(beside) & set(name.split("."))),
        device="cuda" if on_gpu(args.train["use_cpu"]) else "cpu",
    )
    return Outlook(plan, need, machine(args.output_dir))


def require_capacity(args: Arguments, found: Outlook) -> None:
    """Refuse a run that this machine has not enough memory or disk for.

    Raises:
        UserError: it does not fit, with the ways out.
    """
    # With several processes each has its own share of the machine, which one process cannot know.
    if found.need.fits(found.there) or args.run.ignore_memory or processes() > 1:
        return
    smaller = "" if args.model.bits == 4 else "use --bits 4 (a script ..._4bit.sh), "
    raise UserError(
        f"this run {found.need.verdict(found.there)}; {smaller}set MODEL=/path/to/a/smaller/model, lower "
        "--source_max_len, add --tiny, or pass --ignore_memory to try all the same"
    )
