"""`sharelora similarity` measures how similar the layers of a model are; `sharelora groups` groups them anew."""

from __future__ import annotations

import argparse
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharelora.evaluation.commands import Options
from sharelora.flags.fields import add_fields, take
from sharelora.flags.grouping import TEXTS, add_choice_flags, grouping_choice
from sharelora.flags.parser import Parser
from sharelora.layer_groups import FILE, METHODS, Grouping, GroupingSettings, Similarity, read_similarity, show
from sharelora.support.errors import UserError

if TYPE_CHECKING:
    from sharelora.evaluation.subject import Subject
    from sharelora.layer_groups.images import ImageSample
    from sharelora.layer_groups.texts import Sample

logger = logging.getLogger(__name__)

OUTPUT = "runs/similarity"
TINY_SAMPLE = "alpaca"
# Of image and text, where --batch_size is auto and --max_length is not given: 576 tokens are one image of LLaVA-1.5.
PAIRS, LONGEST_PAIR = 8, 2048


def add_flags(parser: Parser) -> None:
    """Add the flags of `sharelora similarity`."""
    add_fields(parser, Options, "model and output")
    parser.add_argument(
        "--sample", metavar="NAME", help="texts: a text file, a table with a column text, or a data set's name"
    )
    parser.add_argument(
        "--image_folder",
        metavar="DIR",
        help="the sample is LLaVA's json with images in this folder, and the model sees",
    )
    add_choice_flags(parser.add_argument_group("groups"))
    parser.set_defaults(output=OUTPUT, limit=TEXTS, batch_size=8)


def run(args: argparse.Namespace) -> None:
    """Measure, group, write and draw.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    from sharelora.flags import program

    program.start(lambda: args, _run)


def _run(args: argparse.Namespace) -> None:
    from sharelora.evaluation.batching import BatchSize
    from sharelora.evaluation.subject import locate_subject
    from sharelora.support.files import require_writable

    choice = grouping_choice(args)
    BatchSize(args.batch_size, 1)
    subject = locate_subject(take(Options, args))
    sample = _sample(args)
    if args.dry_run:
        logger.info("dry run: %s, %d texts of %s; nothing was loaded or written", subject, len(sample), args.sample)
        return
    folder = require_writable(args.output)
    found = _measure(args, subject, sample)
    found.write(folder / FILE)
    logger.info("%s", by_every_method(found, choice))
    files = _draw(found, folder / FILE, choice)
    logger.info("wrote %s", ", ".join(map(str, [folder / FILE, *files])))


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


def _measure(args: argparse.Namespace, subject: Subject, sample: Sample | ImageSample) -> Similarity:
    from sharelora.layer_groups.texts import Sample

    return (
        _measure_texts(args, subject, sample) if isinstance(sample, Sample) else _measure_images(args, subject, sample)
    )


def _measure_images(args: argparse.Namespace, subject: Subject, sample: ImageSample) -> Similarity:
    from sharelora.evaluation.batching import BatchSize
    from sharelora.layer_groups.images import measure_with_images
    from sharelora.models.vision import load_vision_base, open_writer

    writer = open_writer(subject.base, None)
    model = subject.load(take(Options, args), load_vision_base)
    body = model if subject.adapter is None else model.get_base_model()
    size = BatchSize(args.batch_size, PAIRS).most
    return measure_with_images(body, writer, sample, subject.base, args.max_length or LONGEST_PAIR, size)


def _measure_texts(args: argparse.Namespace, subject: Subject, sample: Sample) -> Similarity:
    from sharelora.layer_groups.measure import load_any
    from sharelora.layer_groups.texts import MAX_LENGTH, measure
    from sharelora.models.adapter import load_adapter
    from sharelora.models.load import load_tokenizer

    tokenizer = load_tokenizer(subject.base)
    model = load_any(subject.base, bits=args.bits, dtype=args.dtype, **_devices())
    if subject.adapter is not None:
        # PEFT's own wrapper runs the head as well.
        model = load_adapter(model, subject.adapter).get_base_model()
    size = _batch_size(args, model)
    return measure(model, tokenizer, sample, subject.base, max_length=args.max_length or MAX_LENGTH, batch_size=size)


def _devices() -> dict[str, Any]:
    import torch

    return {"device_map": "auto"} if torch.cuda.is_available() else {}


def _batch_size(args: argparse.Namespace, model: Any) -> int:
    from sharelora.evaluation.batching import BatchSize, most_that_fit
    from sharelora.layer_groups.texts import MAX_LENGTH

    most = most_that_fit(model.config, model.dtype, model.device, args.max_length or MAX_LENGTH)
    return BatchSize(args.batch_size, most).most


def by_every_method(found: Similarity, choice: GroupingSettings) -> str:
    """Return a table of the groups that each method makes at one threshold, or of the one that makes a wanted number.

    Args:
        found: what was measured.
        choice: the measure, and the threshold or number.
    """
    similar = found.matrix(choice.measure)
    if choice.distinct is not None:
        return show.render({f"{choice.method}, {choice.distinct} distinct": choice.group(similar)})
    rows = {
        f"{name}, {choice.measure} >= {choice.threshold:g}": method(similar, choice.threshold)
        for name, method in METHODS.items()
    }
    return show.render(rows)


def _draw(found: Similarity, file: Path, choice: GroupingSettings) -> list[Path]:
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("note: matplotlib is not installed, so nothing is drawn; pip install matplotlib")
        return []
    from sharelora.layer_groups.show import draw

    return draw(found, file.with_suffix(""), choice.measure, _groups(found, choice).groups)


def _groups(found: Similarity, choice: GroupingSettings) -> Grouping:
    """Return the groups, none where no two layers are similar enough: a picture can be drawn all the same."""
    if choice.distinct is not None:
        return choice.apply(found)
    return METHODS[choice.method](found.matrix(choice.measure), choice.threshold)


def add_group_flags(parser: Parser) -> None:
    """Add the flags of `sharelora groups`."""
    parser.add_argument("file", help=f"{FILE} of `sharelora similarity`")
    add_choice_flags(parser)
    parser.switch("--draw", help="draw the similarities with these groups beside the file")


def run_groups(args: argparse.Namespace) -> None:
    """Print what each method makes of measured similarities, and the flags for the chosen one.

    Raises:
        UserError: the file is missing or damaged, or no two layers are similar enough.
    """
    choice, found = grouping_choice(args), read_similarity(args.file)
    print(by_every_method(found, choice))
    print(f"--share_groups {choice.apply(found).text()!r}")
    if args.draw:
        print("wrote", *_draw(found, Path(args.file), choice))
