"""`sharelora similarity` and `sharelora groups` as they are called."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from commands import FULL, full
from peft.utils.integrations import dequantize_module_weight
from toy import make_model, make_tokenizer

from sharelora.cli.commands import main
from sharelora.layer_groups import read_similarity
from sharelora.layer_groups.measure import load_any, model_name
from sharelora.layer_groups.texts import Sample, encode, measure
from sharelora.support.errors import UserError

WORDS = "a fox saw the wolf and a hat of iron"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 with its tokenizer."""
    path = tmp_path_factory.mktemp("gpt2")
    make_model("gpt2").save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Sentences of different lengths, one a line."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(WORDS[:length] for length in range(4, 24)))
    return path


def test_it_measures_writes_and_draws(folder: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for size in ("1", "auto"):
        flags = f"--similarity_threshold 0.1 --bits 32 --limit 9 --batch_size {size}"
        main(f"similarity --model {folder} --sample {texts} --output {out}{size} {flags}".split())
    assert {file.name for file in Path(f"{out}1").iterdir()} == {f"similarity.{end}" for end in ("json", "svg", "png")}
    one, auto = (read_similarity(f"{out}{size}/similarity.json") for size in ("1", "auto"))
    assert one.texts == 9 and one.model == folder.name and one.layers == 2
    assert one.between["cosine"][0][1] == pytest.approx(auto.between["cosine"][0][1], abs=2e-6)


def test_a_4_bit_base_is_measured_as_the_weights_that_it_stands_for(texts: Path, tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    make_model("llama").save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    plain = make_model("llama")
    for path, module in load_any(str(tmp_path / "llama"), bits=4, dtype="fp32").named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            plain.get_submodule(path).weight.data = dequantize_module_weight(module).data
    plain.save_pretrained(tmp_path / "plain")
    make_tokenizer().save_pretrained(tmp_path / "plain")
    found = []
    for name, bits in (("llama", 4), ("plain", 32), ("llama", 32)):
        flags = f"--sample {texts} --output {tmp_path / 'out'} --bits {bits} --dtype fp32"
        main(f"similarity --model {tmp_path / name} {flags}".split())
        found.append(read_similarity(tmp_path / "out" / "similarity.json").between["cosine"][0][1])
    assert found[0] == pytest.approx(found[1], abs=1e-4) and abs(found[0] - found[2]) > 2e-3


def test_an_adapter_is_measured_with_its_base(folder: Path, texts: Path, tmp_path: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from sharelora import ShareLoraConfig

    base = AutoModelForCausalLM.from_pretrained(folder)
    config = ShareLoraConfig(r=4, target_modules=["c_fc"], init_lora_weights=False, lora_alpha=64)
    get_peft_model(base, config).save_pretrained(str(tmp_path / "adapter"))
    values = {}
    for adapter in ("none", str(tmp_path / "adapter")):
        flags = f"--model {folder} --adapter {adapter} --sample {texts} --output {tmp_path / 'out'} --bits 32"
        main(f"similarity {flags}".split())
        values[adapter] = read_similarity(tmp_path / "out" / "similarity.json").between["cosine"]
    one, other = values.values()
    assert one != other


def test_saved_similarities_are_grouped_anew(
    folder: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(f"similarity --model {folder} --sample {texts} --output {tmp_path} --bits 32".split())
    capsys.readouterr()
    main(f"groups {tmp_path}/similarity.json --grouping optimal --distinct_layers 1".split())
    text = capsys.readouterr().out
    assert "1 of 2" in text and "50.0%" in text and "--share_groups '0,1'" in text
    with pytest.raises(UserError, match="found no two layers with a cosine similarity of 1"):
        main(f"groups {tmp_path}/similarity.json --similarity_threshold 1".split())


def test_texts_of_one_token_are_left_out_and_long_ones_cut_and_both_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = make_tokenizer()
    with caplog.at_level(logging.INFO):
        rows = encode(tokenizer, Sample("x", ("q", "q z", "z" * 30)), 5)
    assert [len(row) for row in rows] == [4, 5] and {row[0] for row in rows} == {tokenizer.bos_token_id}
    assert "1 of 3 texts have fewer than 2 tokens" in caplog.text and "1 of 2 texts are cut to 5" in caplog.text
    with pytest.raises(UserError, match="found 2 texts in x, the longest with 1 token; need texts of at least 2"):
        encode(tokenizer, Sample("x", ("q", "z")), 5)


def test_a_text_is_never_longer_than_the_model_reads() -> None:
    model, tokenizer = make_model("gpt2", context=16), make_tokenizer()
    assert measure(model, tokenizer, Sample("x", (WORDS * 9, WORDS * 2)), "toy").texts == 2


@pytest.mark.parametrize(
    "place", ["name", "owner/name", "/a/b/name", "/cache/models--owner--name/snapshots/0123abc", "/snapshots/b/name"]
)
def test_a_model_is_recorded_by_its_name(place: str) -> None:
    assert model_name(place) == "name"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "need texts to compare the layers on; pass --sample"),
        ("--sample nothing.txt", "nothing.txt not found"),
        ("--sample TEXTS --similarity_threshold 2", "cosine similarity goes from -1 to 1"),
        ("--sample TEXTS --similarity_measure angular --similarity_threshold -1", "angular similarity goes from 0"),
        ("--sample TEXTS --grouping best", "found grouping 'best'; need one of greedy, strict, optimal"),
        ("--sample TEXTS --batch_size 0", "found batch size 0"),
    ],
)
def test_bad_input_is_one_line(folder: Path, texts: Path, tmp_path: Path, flags: str, message: str) -> None:
    words = f"similarity --model {folder} --output {tmp_path / 'out'} {flags.replace('TEXTS', str(texts))}".split()
    with pytest.raises(UserError, match=message) as error:
        main(words)
    assert "\n" not in str(error.value) and not (tmp_path / "out" / "similarity.json").exists()


def test_a_dry_run_loads_and_writes_nothing(folder: Path, texts: Path, tmp_path: Path) -> None:
    main(f"similarity --model {folder} --sample {texts} --output {tmp_path / 'out'} --dry_run".split())
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_fit_into_memory_is_one_line(
    folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharelora.layer_groups.measure.load_base", full)
    with pytest.raises(UserError, match=FULL.format("bits 4")):
        main(f"similarity --model {folder} --sample {texts} --output {tmp_path / 'out'}".split())
