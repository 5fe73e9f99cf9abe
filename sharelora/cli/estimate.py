"""`sharelora estimate`: the memory that a training would take, against what this machine has."""

from __future__ import annotations

import argparse

from sharelora.cli.plan import MODEL_HELP, named_model
from sharelora.flags.parser import Parser, positive
from sharelora.flags.sharing import add_share_flags
from sharelora.memory.estimator import BYTES, FACTORED, STATES, estimate
from sharelora.memory.machine import machine


def add_load_flags(group: argparse._ActionsContainer, bits: int) -> None:
    """Add the flags that say how a model is trained, to a parser or a group of its flags.

    Args:
        group: where they go.
        bits: default precision of the base.
    """
    add = group.add_argument
    add("--bits", type=int, choices=(4, 8, 16, 32), default=bits, help="precision of the base")
    add("--dtype", choices=tuple(BYTES), default="bf16", help="of activations")
    add("--batch", type=positive, default=1, help="examples per forward pass")
    add("--tokens", type=positive, default=512, help="tokens of the longest example")
    add("--optim", choices=(*STATES, FACTORED), default="adamw_torch", metavar="NAME", help="optimizer")


def add_estimate_flags(parser: Parser) -> None:
    """Add the flags of `sharelora estimate`."""
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    add_share_flags(parser)
    load = parser.add_argument_group("training")
    add_load_flags(load, bits=16)
    load.add_argument("--eval_batch", type=positive, help="examples per forward pass of evaluations; none unless given")
    load.add_argument("--device", choices=("cpu", "cuda"), help="where it would run; a GPU if there is one")
    parser.switch("--no_checkpointing", help="keep all activations instead of recomputing them")
    parser.add_argument("--output_dir", default=".", metavar="DIR", help="folder whose disk is checked")


def run_estimate(args: argparse.Namespace) -> None:
    """Print the estimate and whether this machine suffices.

    Raises:
        UserError: no such model, or flags that do not fit it.
    """
    settings, model = named_model(args)
    available = machine(args.output_dir)
    need = estimate(
        model,
        settings.plan(model),
        args.bits,
        args.dtype,
        args.batch,
        args.tokens,
        args.optim,
        not args.no_checkpointing,
        lora_dropout=settings.dropout,
        share_dropout_mask=settings.share_dropout_mask,
        eval_batch=args.eval_batch or 0,
        device=args.device or available.device,
    )
    print(need.table())
    print(need.verdict(available))
