"""Every flag of the decoding: those of LoRA's gpt2_beam.py with their defaults, and a few of our own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from sharelora.flags.fields import add_fields, help_field, take
from sharelora.flags.parser import NO_ADAPTER, Parser, positive, tiny_environment
from sharelora.flags.upstream import Rule, dropped, modernise
from sharelora.models.known import MODEL_CARDS
from sharelora.support.errors import UserError

_PROCESSES = "one process decodes, on the GPU if there is one"
# Flags of gpt2_beam.py that have no meaning here.
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("platform", "local_rank", "rank", "device", "world_size"), dropped(_PROCESSES)),
    "random_seed": dropped("beam search is not random"),
}
# The engine of the project, whose texts are upstream's.
OWN = "own"
# Other names of flags.
ALIASES = {
    "model_name_or_path": ("model",),
    "adapter": ("init_checkpoint",),
    "lora_dim": ("lora_r",),
    "work_dir": ("output_dir",),
}


@dataclass(frozen=True)
class ModelOptions:
    """The flags of the model."""

    model_card: str | None = help_field(None, "a size of GPT-2", choices=tuple(MODEL_CARDS))
    model_name_or_path: str | None = help_field(None, "any base model: folder or hub id; by default the adapter's own")
    adapter: str | None = help_field(None, f"an adapter, or the folder of its run; {NO_ADAPTER}: the bare base")
    lora_dim: int | None = help_field(None, "the adapter's rank; checked, not set")
    lora_alpha: float | None = help_field(None, "the adapter's alpha; checked, not set")
    dtype: str = help_field("auto", "of the weights", choices=("auto", "fp64", "fp32", "bf16", "fp16"))


@dataclass(frozen=True)
class SearchOptions:
    """The flags of the beam search."""

    engine: str = help_field(
        OWN,
        "own finds upstream's texts; ctranslate2, for GPT-2 on a CPU, may stop before it has",
        choices=(OWN, "ctranslate2"),
    )
    beam: int = help_field(1, "texts kept per input and step")
    seq_len: int = help_field(512, "most tokens of input and text together")
    eval_len: int = help_field(256, "most tokens of a text")
    min_length: int = help_field(0, "tokens before which a text may not end")
    length_penalty: float = help_field(1.0, "texts are ranked by (sum of log p) / length ** penalty")
    no_repeat_ngram_size: int = help_field(4, "no sequence of this many tokens comes twice in a text; 0 allows it")
    repetition_penalty: float = help_field(1.0, "divides the logits of tokens that a text already has")
    eos_token_id: Sequence[int] | None = help_field(
        None,
        "another token that ends a text, besides the tokenizer's own; by default the one for a blank line",
        type=int,
        action="append",
        metavar="ID",
    )


@dataclass(frozen=True)
class BeamOptions(SearchOptions, ModelOptions):
    """Every flag of the decoding.

    Attributes:
        notices: what to say about flags of gpt2_beam.py that were dropped.
    """

    data: str | None = help_field(None, "e2e, webnlg or dart; or a file of rows, as text or as token ids (tiny: e2e)")
    split: str = help_field("test", "split of a data set by name")
    data_root: str | None = help_field(None, "folder of data sets; by default SHARELORA_DATA, else the hub")
    limit: int | None = help_field(None, "decode the first N distinct inputs only", type=positive, metavar="N")
    batch_size: str = help_field("auto", "inputs at once, or auto; affects only speed")
    work_dir: str = help_field(lambda: os.getenv("PT_OUTPUT_DIR", "gpt2_model"), "folder for the results")
    output_file: str = help_field("predictions.jsonl", "the file of token ids in it", metavar="NAME")
    overwrite: bool = help_field(False, "start again where texts were decoded with other settings")
    tiny: bool = help_field(tiny_environment, "use the project's own small model and data")
    dry_run: bool = help_field(False, "find model, adapter and inputs, write nothing, and stop before loading weights")
    notices: list[str] = field(default_factory=list)


def build_parser() -> Parser:
    """Return the parser with every flag."""
    parser = Parser("gpt2_beam.py", "Decode a data set with beam search, each distinct input once.")
    add_fields(parser, ModelOptions, "model", aliases=ALIASES)
    add_fields(parser, SearchOptions, "beam search", aliases=ALIASES)
    known = {field.name for owner in (ModelOptions, SearchOptions) for field in fields(owner)}
    add_fields(parser, BeamOptions, "data and output", skip={*known, "notices"}, aliases=ALIASES)
    return parser


def parse(argv: Sequence[str] | None = None) -> BeamOptions:
    """Read the command line; None means the process's own.

    Raises:
        UserError: an unknown flag, a malformed value, or flags that contradict each other.
    """
    parser = build_parser()
    words, notices = modernise(list(sys.argv[1:] if argv is None else argv), parser.flags, RULES)
    values = parser.parse(words)
    if values.data is None:
        if not values.tiny:
            raise UserError("found no --data; need e2e, webnlg, dart or a file of rows; add it, or --tiny")
        values.data = "e2e"
    if values.model_card and values.model_name_or_path:
        raise UserError("found --model_card and --model_name_or_path; need one base model; drop one of them")
    values.notices = notices
    options: BeamOptions = take(BeamOptions, values)
    return options
