"""`sharelora similarity` measures how similar the layers of a model are; `sharelora groups` regroups them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharelora.data.begin import AUTO
from sharelora.evaluation.commands import Options
from sharelora.flags import program
from sharelora.flags.fields import add_fields, take
from sharelora.flags.grouping import TEXTS, add_choice_flags, grouping_choice
from sharelora.flags.parser import Parser
from sharelora.layer_groups.grouping import Grouping
from sharelora.layer_groups.settings import METHODS, GroupingSettings
from sharelora.layer_groups.show import draw, render
from sharelora.layer_groups.similarity import FILE, Similarity, read_similarity
from sharelora.reporting.pictures import has_matplotlib
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable, vanishing
from sharelora.support.folders import recover
from sharelora.support.lock import Lock

if TYPE_CHECKING:
    from sharelora.evaluation.subject import Subject
    from sharelora.layer_groups.images import ImageSample
    from sharelora.layer_groups.texts import Sample

# Imports inside functions load torch and transformers, which takes seconds: help and mistakes must not wait for it.

logger = logging.getLogger(__name__)

OUTPUT = "runs/similarity"
TINY_SAMPLE = "alpaca"
# Image-text pairs at once where --batch_size is auto, and tokens where --max_length is absent: 576 tokens are one image
# of LLaVA-1.5.
PAIRS, LONGEST_PAIR = 8, 2048


def add_similarity_flags(parser: Parser) -> None:
    """Add the flags of `sharelora similarity`."""
    # Texts begin as rows do in training, so there is no choice.
    add_fields(parser, Options, "model and output", ("bos",))
    parser.add_argument(
        "--sample", metavar="NAME", help="texts: a text file, a table with a column text, or a data set's name"
    )
    parser.add_argument(
        "--image_folder",
        metavar="DIR",
        help="images of a sample in LLaVA's json, for a vision-language model",
    )
    add_choice_flags(parser.add_argument_group("groups"))
    parser.set_defaults(output=OUTPUT, limit=TEXTS, batch_size=8, bos=AUTO)


def run_similarity(args: argparse.Namespace) -> None:
    """Measure, group, write and draw.

    Raises:
        UserError: anything that the user can fix; found before the model is loaded wherever possible.
    """
    program.start(lambda: args, _run)


def _run(args: argparse.Namespace) -> None:
    from sharelora.evaluation.batching import BatchSize
    from sharelora.evaluation.subject import locate_subject

    choice = grouping_choice(args)
    BatchSize(args.batch_size, 1)
    subject = locate_subject(take(Options, args))
    sample = _sample(args)
    prepare = _texts if args.image_folder is None else _images
    compare = prepare(args, subject, sample)
    if args.dry_run:
        logger.info("dry run: %s, %d texts of %s; nothing was loaded or written", subject, len(sample), args.sample)
        return
    with vanishing(args.output), Lock() as lock:
        file = require_writable(args.output) / FILE
        lock.take(file.parent)
        recover(file.parent, [f"{file.stem}*"])
        similarity = compare()
        similarity.write(file)
    logger.info("%s", by_every_method(similarity, choice))
    logger.info("wrote %s", ", ".join(map(str, [file, *_draw(similarity, file, choice)])))


def _sample(args: argparse.Namespace) -> Sample | ImageSample:
    from sharelora.evaluation.subject import data_root
    from sharelora.layer_groups.images import read_image_sample
    from sharelora.layer_groups.texts import read_sample

    name = args.sample or (TINY_SAMPLE if args.tiny else None)
    if name is None:
        raise UserError("found no --sample; need texts to compare the layers on; pass --sample FILE, or a data set")
    if args.image_folder is not None:
        return read_image_sample(name, args.image_folder, args.limit, args.seed)
    return read_sample(name, args.limit, args.seed, data_root(args.data_root, args.tiny))


def _images(args: argparse.Namespace, subject: Subject, sample: Any) -> Callable[[], Similarity]:
    """Tokenise conversations about images; the function that is returned loads the model and measures."""
    from sharelora.evaluation.batching import BatchSize
    from sharelora.layer_groups.images import encode_sample, measure_with_images
    from sharelora.models.vision import load_vision_base, open_writer

    writer, longest = open_writer(subject.base, None), args.max_length or LONGEST_PAIR
    rows = encode_sample(writer, sample, longest, subject.reads())

    def compare() -> Similarity:
        model = subject.load(take(Options, args), load_vision_base)
        body = model if subject.adapter is None else model.get_base_model()
        size = BatchSize(args.batch_size, PAIRS).most
        return measure_with_images(body, writer, sample, subject.base, longest, size, rows)

    return compare


def _texts(args: argparse.Namespace, subject: Subject, sample: Any) -> Callable[[], Similarity]:
    """Tokenise texts; the function that is returned loads the model and measures."""
    import torch

    from sharelora.evaluation.batching import BatchSize, most_that_fit
    from sharelora.layer_groups.measure import load_any
    from sharelora.layer_groups.texts import MAX_LENGTH, encode, measure
    from sharelora.memory.machine import room_for
    from sharelora.models.adapter import load_adapter
    from sharelora.models.load import load_tokenizer

    tokenizer, longest = load_tokenizer(subject.base), args.max_length or MAX_LENGTH
    rows = encode(tokenizer, sample, longest, subject.reads())

    def compare() -> Similarity:
        devices: dict[str, Any] = {"device_map": "auto"} if torch.cuda.is_available() else {}
        with room_for(subject, "--bits 4"):
            model = load_any(subject.base, bits=args.bits, dtype=args.dtype, **devices)
            if subject.adapter is not None:
                # PEFT's own wrapper runs the head as well.
                model = load_adapter(model, subject.adapter).get_base_model()
        most = most_that_fit(model.config, model.dtype, model.device, longest)
        size = BatchSize(args.batch_size, most).most
        return measure(model, tokenizer, sample, subject.base, longest, size, rows)

    return compare


def by_every_method(similarity: Similarity, choice: GroupingSettings) -> str:
    """Return a table of every method's groups at one threshold, or of the groups with a number of distinct layers.

    Args:
        similarity: what was measured.
        choice: the measure, and the threshold or number.
    """
    matrix = similarity.matrix(choice.measure)
    if choice.distinct is not None:
        return render({f"{choice.method}, {choice.distinct} distinct": choice.group(matrix)})
    rows = {
        f"{name}, {choice.measure} >= {choice.threshold:g}": method(matrix, choice.threshold)
        for name, method in METHODS.items()
    }
    return render(rows)


def _draw(similarity: Similarity, file: Path, choice: GroupingSettings) -> list[Path]:
    if not has_matplotlib():
        logger.info("note: matplotlib is not installed, so nothing is drawn; pip install matplotlib")
        return []
    grouping: Grouping
    if choice.distinct is not None:
        grouping = choice.apply(similarity)
    else:  # a picture needs no groups, while `apply` refuses where no two layers are similar enough
        grouping = METHODS[choice.method](similarity.matrix(choice.measure), choice.threshold)
    return draw(similarity, file.with_suffix(""), choice.measure, grouping.groups)


def add_groups_flags(parser: Parser) -> None:
    """Add the flags of `sharelora groups`."""
    parser.add_argument("file", help=f"{FILE} of `sharelora similarity`")
    add_choice_flags(parser)
    parser.switch("--draw", help="draw the similarities with these groups next to the file")


def run_groups(args: argparse.Namespace) -> None:
    """Print what each method makes of measured similarities, and the flags for the chosen one.

    Raises:
        UserError: the file is missing or damaged, or no two layers are similar enough.
    """
    choice, similarity = grouping_choice(args), read_similarity(args.file)
    print(by_every_method(similarity, choice))
    print(f"--share_groups {choice.apply(similarity).text()!r}")
    if args.draw:
        print("wrote", *_draw(similarity, Path(args.file), choice))
