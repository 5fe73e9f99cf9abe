"""Every flag of the decoding: those of LoRA's gpt2_beam.py with their defaults, and a few of our own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from sharelora.evaluation.command import BARE
from sharelora.flags.parser import Parser, positive, tiny_environment
from sharelora.flags.upstream import Rule, dropped, modernise
from sharelora.models.known import MODEL_CARDS
from sharelora.support.errors import UserError

_PROCESSES = "one process decodes, on the GPU if there is one"
# Flags of gpt2_beam.py that have no meaning here.
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("platform", "local_rank", "rank", "device", "world_size"), dropped(_PROCESSES)),
    "random_seed": dropped("beam search draws nothing"),
}


def build_parser() -> Parser:
    """Return the parser with every flag."""
    parser = Parser("gpt2_beam.py", "Decode a data set with beam search, each distinct input once.")
    _model_flags(parser)
    _search_flags(parser)
    add = parser.add_argument_group("data and output").add_argument
    add("--data", help="e2e, webnlg or dart; or a file of rows, as text or as token ids (tiny: e2e)")
    add("--split", default="test", help="split of a data set by name")
    add("--data_root", help="folder of data sets; by default SHARELORA_DATA, else the hub")
    add("--limit", type=positive, metavar="N", help="decode the first N distinct inputs only")
    add("--batch_size", default="auto", help="inputs at once, or auto; it changes the speed alone")
    add("--work_dir", "--output_dir", default=os.getenv("PT_OUTPUT_DIR", "gpt2_model"), help="folder for the results")
    add("--output_file", default="predictions.jsonl", metavar="NAME", help="the file of token ids in it")
    parser.switch("--overwrite", help="start anew where texts were decoded with other settings")
    parser.switch("--tiny", tiny_environment(), help="use the project's own small model and data")
    parser.switch("--dry_run", help="find model, adapter and inputs, write nothing, and stop before loading weights")
    return parser


def _model_flags(parser: Parser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model_card", choices=tuple(MODEL_CARDS), help="a size of GPT-2")
    add("--model_name_or_path", "--model", help="any base model: folder or hub id; by default the adapter's own")
    add("--adapter", "--init_checkpoint", help=f"an adapter, or the folder of its run; {BARE}: the base alone")
    add("--lora_dim", "--lora_r", type=int, help="what the adapter's rank should be; checked, not set")
    add("--lora_alpha", type=float, help="what the adapter's alpha should be; checked, not set")
    add("--dtype", choices=("auto", "fp64", "fp32", "bf16", "fp16"), default="auto", help="of the weights")


def _search_flags(parser: Parser) -> None:
    add = parser.add_argument_group("beam search").add_argument
    add("--beam", type=int, default=1, help="texts that are kept per input and step")
    add("--seq_len", type=int, default=512, help="most tokens of input and text together")
    add("--eval_len", type=int, default=256, help="most tokens of a text")
    add("--min_length", type=int, default=0, help="tokens before which a text may not end")
    add("--length_penalty", type=float, default=1.0, help="texts are ranked by (sum of log p) / length ** penalty")
    add("--no_repeat_ngram_size", type=int, default=4, help="no so many tokens come twice in a text; 0 allows it")
    add("--repetition_penalty", type=float, default=1.0, help="divides the logits of tokens that a text has already")
    add(
        "--eos_token_id",
        type=int,
        action="append",
        metavar="ID",
        help="another token that ends a text, besides the tokenizer's own; by default the one for a blank line",
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None means the process's own. `notices` says what was dropped.

    Raises:
        UserError: an unknown flag, a malformed value, or flags that do not go together.
    """
    parser = build_parser()
    words, notices = modernise(list(sys.argv[1:] if argv is None else argv), parser.flags, RULES)
    args = parser.parse(words)
    if args.data is None:
        if not args.tiny:
            raise UserError("found no --data; need e2e, webnlg, dart or a file of rows; add it, or --tiny")
        args.data = "e2e"
    if args.model_card and args.model_name_or_path:
        raise UserError("found --model_card and --model_name_or_path; need one base model; drop one of them")
    args.notices = notices
    return args
