"""Plain text for pre-training: read from a folder or an archive, in part held out, tokenised, cut into rows."""

from __future__ import annotations

import hashlib
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from sharelora.support.errors import UserError

END = "<|endoftext|>"
SUFFIX = ".txt"
Tokens = NDArray[np.int32]


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        yield from ((str(file.relative_to(path)), file.read_bytes()) for file in path.rglob(f"*{SUFFIX}"))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield from ((name, packed.read(name)) for name in packed.namelist())
    elif tarfile.is_tarfile(path):
        # Read in place: nothing is unpacked onto the disk.
        with tarfile.open(path) as archive:
            for member in archive:
                handle = archive.extractfile(member)
                if handle is not None:
                    yield member.name, handle.read()
    else:
        yield path.name, path.read_bytes()


def read_texts(path: str | Path) -> list[str]:
    """Read every `.txt` file of a folder, of a tar or zip archive, or one text file, in the order of their names.

    Lines within a paragraph are joined; paragraphs stay apart by an empty line.

    Raises:
        UserError: no such path, or no text in it.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"found no {path}; need a folder or an archive of {SUFFIX} files; check --corpus")
    try:
        members = sorted((name, data) for name, data in _members(path) if name.endswith(SUFFIX) and data.strip())
        texts = [_paragraphs(data.decode("utf-8-sig")) for _, data in members]
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path}: {error}; copy it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} holds text that is not UTF-8 ({error.reason}); convert it") from error
    if not texts:
        raise UserError(f"{path} holds no {SUFFIX} files with text; need some English; check --corpus")
    return texts


def _paragraphs(text: str) -> str:
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text.replace("\r\n", "\n")))
    return "\n\n".join(part for part in parts if part)


def digest(texts: Sequence[str]) -> str:
    """Return a name for exactly these texts."""
    # A digest of digests: where one text ends and the next begins counts too.
    whole = hashlib.sha256()
    for text in texts:
        whole.update(hashlib.sha256(text.encode()).digest())
    return whole.hexdigest()


def hold_out(texts: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Cut the last part off every text, between two paragraphs.

    Args:
        texts: all texts.
        share: how much of each is held out, by characters.

    Returns:
        What is trained on, and what is held out.
    """
    trained, held = [], []
    for text in texts:
        earliest = int(len(text) * (1 - share))
        paragraph_end = text.find("\n\n", earliest)
        cut = earliest if paragraph_end < 0 else paragraph_end
        trained.append(text[:cut])
        held.append(text[cut:].strip())
    return trained, [text for text in held if text]


def make_tokenizer(texts: Sequence[str], size: int, length: int) -> PreTrainedTokenizerFast:
    """Make a byte-level BPE with GPT-2's way of splitting and its one special token, which has the last id.

    Args:
        texts: it is trained on.
        size: of the vocabulary, the special token included.
        length: the model's context.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts, BpeTrainer(vocab_size=size - 1, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([END])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, model_max_length=length
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tokens:
    """Return the tokens of all texts one after the other, each ended by the end token, shape (tokens)."""
    rows = tokenizer.backend_tokenizer.encode_batch([text + END for text in texts], add_special_tokens=False)
    return np.concatenate([np.asarray(row.ids, dtype=np.int32) for row in rows])


def windows(tokens: Tokens, length: int) -> Tokens:
    """Cut tokens into rows; the last token of a row is the first of the next, so that each but the first is predicted.

    Args:
        tokens: shape (tokens).
        length: tokens to predict per row.

    Returns:
        Shape (rows, length + 1); what does not fill a row is left out.

    Raises:
        UserError: there are too few for one row.
    """
    rows = (len(tokens) - 1) // length
    if rows < 1:
        raise UserError(f"found {len(tokens)} tokens of text; need more than {length} for one row; give more text")
    return np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[: rows * length : length]


def shuffled(rows: Tokens, count: int, seed: int) -> Iterator[Tokens]:
    """Yield batches of rows endlessly, in another order in every pass over the text.

    Args:
        rows: shape (rows, length + 1).
        count: rows of a batch; all if there are fewer.
    """
    order = np.random.default_rng(seed)
    count = min(count, len(rows))
    while True:
        shuffled_rows = order.permutation(len(rows))
        for start in range(0, len(rows) - count + 1, count):
            yield rows[shuffled_rows[start : start + count]]
