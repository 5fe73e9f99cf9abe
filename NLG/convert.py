"""Convert data-to-text sets: rows to lines of JSON, these to token ids, predicted ids to text.

    python NLG/convert.py format_converting data/e2e/train.txt data/e2e/train_formatted.jsonl
    python NLG/convert.py encode --vocab MODEL --input train_formatted.jsonl --output train.jsonl --add_bos --add_eos
    python NLG/convert.py decode --vocab MODEL --sample_file beam.jsonl --input_file test_formatted.jsonl \
        --output_ref_file e2e_ref.txt --output_pred_file e2e_pred.txt

The flags are those of LoRA's scripts of these names; `--vocab` is a folder with a tokenizer, such as the model's.
Training and decoding also take data sets by name or as text, so none of this is needed for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from sharelora.data.nlg.convert import FILTERS, KINDS, DecodeOptions, decode, encode, format_converting
from sharelora.flags.parser import Parser, positive
from sharelora.support.errors import UserError, run_main


def _format_command(words: list[str]) -> str:
    parser = Parser("convert.py format_converting", "Write rows as lines of JSON with context and completion.")
    parser.add_argument("source", help="a file in any form, or e2e, webnlg, dart")
    parser.add_argument("target", help="file to write")
    parser.add_argument("--split", default="train", help="train, valid or test, of a set by name")
    args = parser.parse(words)
    return f"wrote {args.target}: {format_converting(args.source, args.target, args.split):,} rows"


def _tokenizer(folder: str) -> object:
    # Imports transformers, which `format_converting` and a bad command line do without.
    from sharelora.models.load import load_tokenizer

    return load_tokenizer(folder)


def _encode_command(words: list[str]) -> str:
    parser = Parser("convert.py encode", "Write rows as token ids.")
    for flag, what in (("--vocab", "folder of the tokenizer"), ("--input", "rows"), ("--output", "file to write")):
        parser.add_argument(flag, required=True, help=what)
    parser.switch("--add_bos", help="end inputs with the separator token")
    parser.switch("--add_eos", help="end texts with it")
    args = parser.parse(words)
    count = encode(_tokenizer(args.vocab), args.input, args.output, args.add_bos, args.add_eos)
    return f"wrote {args.output}: {count:,} rows"


def _decode_command(words: list[str]) -> str:
    parser = Parser("convert.py decode", "Write predicted ids as text, and the references for the official scripts.")
    parser.add_argument("--vocab", required=True, help="folder of the tokenizer")
    parser.add_argument("--sample_file", required=True, help="predicted ids")
    parser.add_argument("--input_file", required=True, help="the rows that were decoded, as text")
    parser.add_argument("--output_ref_file", required=True, help="references: a file for e2e, a folder for the others")
    parser.add_argument("--output_pred_file", required=True, help="predictions, one line per distinct input")
    parser.add_argument("--ref_unique_file", help="a name per row; rows of one name are one input")
    parser.add_argument("--ref_type", choices=KINDS, default="e2e", help="layout of the references")
    parser.add_argument("--ref_num", type=positive, default=4, help="reference files of webnlg and dart")
    parser.switch("--tokenize", help="put spaces around everything except letters and digits")
    parser.switch("--lower", help="write in lower case")
    parser.add_argument("--filter", choices=tuple(FILTERS), default="all", help="inputs of WebNLG to write")
    args = parser.parse(words)
    options = DecodeOptions(args.ref_type, args.ref_num, args.tokenize, args.lower, args.filter)
    files = (args.sample_file, args.input_file, args.output_ref_file, args.output_pred_file)
    count = decode(_tokenizer(args.vocab), *files, options, args.ref_unique_file)
    return f"wrote {args.output_pred_file} and {args.output_ref_file}: {count:,} inputs"


COMMANDS: Mapping[str, Callable[[list[str]], str]] = {
    "format_converting": _format_command,
    "encode": _encode_command,
    "decode": _decode_command,
}


def main() -> None:
    """Run the command that the first word names."""
    name, *words = sys.argv[1:] or ["-h"]
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in COMMANDS:
        raise UserError(f"found the command {name}; need one of {', '.join(COMMANDS)}; see --help")
    print(COMMANDS[name](words))


if __name__ == "__main__":
    run_main(main)
