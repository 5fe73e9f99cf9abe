"""The limits of what is read from files of others, and the sorts of files that are met."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sharelora.convert.adapter_file import read_adapter
from sharelora.convert.base_folder import read_base
from sharelora.convert.exporting import export_lora
from sharelora.convert.merging import merge
from sharelora.convert.sources import read_lora
from sharelora.data.rows import read_rows
from sharelora.flags.settings_file import read_settings
from sharelora.models.adapter import load_adapter
from sharelora.models.known import meta_model
from sharelora.models.load import load_base, load_tokenizer, resolve_model
from sharelora.support.errors import UserError, run_main
from sharelora.support.files import sha256
from sharelora.support.reading import MOST_LEVELS, OneOf, Text, misfit, parse_json, read_json, read_text
from sharelora.support.tensor_header import read_header
from sharelora.tuner.patterns import require_quick

READERS: dict[str, Callable[[Path], Any]] = {
    ".json": read_json,
    ".txt": read_text,
    ".yaml": read_settings,
    ".jsonl": read_rows,
    ".safetensors": read_header,
    ".bin": sha256,
}


@pytest.mark.parametrize("ending", READERS)
def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path: Path, ending: str) -> None:
    """Nobody writes into the pipe: whoever opens it to read waits for ever."""
    os.mkfifo(tmp_path / f"pipe{ending}")
    os.symlink("/dev/zero", tmp_path / f"zero{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    for name, kind in (("pipe", "a named pipe"), ("zero", "a device"), ("folder", "a folder")):
        with pytest.raises(UserError, match=f"cannot read .*{name}.*: it is {kind}; need a file; check the path"):
            READERS[ending](tmp_path / f"{name}{ending}")
    with pytest.raises(UserError, match=r"No such file"):
        READERS[ending](tmp_path / f"none{ending}")


def test_missing_rights_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise PermissionError(13, "Permission denied", "/secret\nplace")

    with pytest.raises(SystemExit) as end:
        run_main(fail)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: no permission for /secret place;") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1), "nested deeper than 100 levels"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 1000 + "1" + "}" * 1000, "nested deeper"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' twice"),
        ("1" * 101, "a number of 101 digits"),
        ("-" + "1" * 5000, "a number of 5,001 digits"),
        ("{", "Expecting property name"),
    ],
)
def test_json_beyond_a_limit(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=f"x.json is not valid JSON .{reason}"):
        read_json(tmp_path / "x.json", object)


def test_json_within_the_limits(tmp_path: Path) -> None:
    text = "[" * MOST_LEVELS + "1" * 100 + "]" * MOST_LEVELS
    assert parse_json(text) == json.loads(text)
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": NaN, "b": 1e999}')
    assert str(read_json(tmp_path / "x.json")) == "{'a': nan, 'b': inf}"
    (tmp_path / "x.json").write_text(json.dumps("x" * 100))
    with pytest.raises(UserError, match=r"has 102 bytes; need at most 50"):
        read_json(tmp_path / "x.json", str, most=50)
    (tmp_path / "x.json").write_text('{"a": "\\ud83d"}')
    with pytest.raises(UserError, match=r"half of a character"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("value", "shape", "fault"),
    [
        (None, dict, "null; need an object"),
        ("x", [int], "'x'; need a list"),
        (True, int, "True; need a whole number"),
        (1, bool, "1; need true or false"),
        (2, float, None),
        (float("nan"), float, "nan; need a number"),
        (float("inf"), object, None),
        (8, range(8), "8; need a whole number from 0 to 7"),
        (7, range(8), None),
        ("abc", Text(2), "'abc'; need text of at most 2 characters"),
        ("c", OneOf(("a", "b")), "'c'; need one of a, b"),
        ([1, "x"], [int], "'x' as [1]; need a whole number"),
        ({"a": 1}, {"a": int, "b?": str}, None),
        ({"a": 1, "b": 2}, {"a": int, "b?": str}, "2 as b; need text"),
        ({}, {"a": int}, "no a"),
        ({"a": [{"b": "x"}]}, {"a": [{"b": float}]}, "'x' as a[0].b; need a number"),
        ({"x": 1, "y": None}, {...: int}, "null as y; need a whole number"),
        (None, (str, None), None),
        (3, (str, None), "3; need text or null"),
        ([1, None], ([int], None), "null as [1]; need a whole number"),
    ],
)
def test_what_does_not_have_a_shape_is_named(value: Any, shape: Any, fault: str | None) -> None:
    assert misfit(value, shape) == fault


@pytest.fixture(scope="module")
def adapter(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that says no checksum of its weights."""
    folder = Path(shutil.copytree(finished / "adapter_model", tmp_path_factory.mktemp("adapter") / "ours"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "weights_sha256": None}))
    return folder


@pytest.fixture
def ours(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "ours"))


@pytest.fixture
def plain(adapter: Path, model_folder: Path, tmp_path: Path) -> Path:
    """The same as a plain LoRA."""
    return export_lora(adapter, tmp_path / "plain", model_folder).folder


def with_tensors(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """Change the first matrix of an adapter."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = min(name for name in tensors if "lora_A" in name)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, file)
    return folder


def with_config(folder: Path, **values: Any) -> Path:
    """Change fields of an adapter's configuration."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2, torch.bool])
def test_matrices_are_floats_of_at_least_16_bits(
    ours: Path, plain: Path, model_folder: Path, dtype: torch.dtype
) -> None:
    base = load_base(str(model_folder), bits=32)
    reads: dict[Path, Callable[[Path], Any]] = {ours: read_adapter, plain: read_lora}
    for folder, read in reads.items():
        with_tensors(folder, lambda matrix: matrix.to(dtype))
        for attempt in (read, lambda folder: load_adapter(base, folder)):
            with pytest.raises(UserError, match=r"lora_A.* as (I8|I64|F8_E4M3|F8_E5M2|BOOL); need F64, F32, F16, BF16"):
                attempt(folder)


def test_a_rank_that_contradicts_the_matrices(ours: Path, plain: Path, model_folder: Path) -> None:
    base = load_base(str(model_folder), bits=32)
    with pytest.raises(UserError, match=r"says rank 2 for .*, whose matrices have rank 4; need both from one adapter"):
        read_adapter(with_config(ours, r=2))
    with pytest.raises(UserError, match=r"says rank 2 for .*, whose matrices have rank 4"):
        read_lora(with_config(plain, r=2, rank_pattern={}))
    for folder in (ours, plain):
        for huge in ({"r": 10**9}, {"r": 4, "rank_pattern": {"q_proj": 10**9}}):
            with pytest.raises(UserError, match=r"says rank 1000000000, and no matrix .* has so many rows"):
                load_adapter(base, with_config(folder, **huge))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [r"(\w+\.?)*x", r".*.*.*.*.*.*.*.*.*x", r"(.|\w)*!"])
def test_a_pattern_that_never_ends_is_refused(plain: Path, ours: Path, model_folder: Path, pattern: str) -> None:
    base = load_base(str(model_folder), bits=32)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"takes more than 2 s to compare"):
        load_adapter(base, with_config(plain, target_modules=pattern))
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("pattern", ["(", "a)", "*", "(?P<a", "[", "a{2,1}"])
def test_a_pattern_that_is_none_is_refused(plain: Path, model_folder: Path, pattern: str) -> None:
    with pytest.raises(UserError, match=r"need a regular expression"):
        load_adapter(load_base(str(model_folder), bits=32), with_config(plain, rank_pattern={pattern: 4}))


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|v)_proj",
        "q_proj",
        r"model\.layers\.\d+\.self_attn\.(q_proj|v_proj)",
        r"(?:.*?(?:a|b).*?(?:q|v).*?)",
        "(a+)?",
    ],
)
def test_patterns_that_people_write_pass(pattern: str) -> None:
    require_quick([(pattern, pattern)], [f"model.layers.{n}.self_attn.q_proj" for n in range(100)], "here")


@pytest.mark.parametrize("content", ["null", '"llama"', "[]", "3", "{}", '{"model_type": 3}', '{"model_type": "none"}'])
def test_a_configuration_of_a_model_that_is_none(model_folder: Path, tmp_path: Path, content: str) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (folder / "config.json").write_text(content)
    for read in (lambda: load_base(str(folder)), lambda: meta_model(folder), lambda: read_base(folder)):
        with pytest.raises(UserError) as caught:
            read()
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": -1},
        {"hidden_size": 10**12},
        {"vocab_size": "many"},
        {"num_attention_heads": 0},
        {"hidden_act": "none"},
        {"head_dim": 7.5},
        {"rope_parameters": "x"},
        {"architectures": "LlamaForCausalLM"},
        {"num_attention_heads": 3},
    ],
)
def test_a_configuration_of_a_model_of_absurd_sizes(model_folder: Path, tmp_path: Path, change: Any) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    began = time.monotonic()
    for read in (lambda: load_base(str(folder)), lambda: read_base(folder)):
        with pytest.raises(UserError) as caught:
            read()
        assert "config.json" in str(caught.value) or str(folder) in str(caught.value)
    assert time.monotonic() - began < 5


def test_a_base_that_lacks_a_weight(model_folder: Path, ours: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"], weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 2 weights of its architecture, first model\.layers\.1\.mlp\.up_proj"):
        merge(folder, ours, tmp_path / "merged")
    with pytest.raises(UserError, match=r"lacks 2 weights"):
        load_base(str(folder))
    assert not (tmp_path / "merged").exists()


def test_an_index_names_files_of_its_own_folder(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../model/model.safetensors"}}))
    with pytest.raises(UserError, match=r"names the file '../model/model.safetensors'; need files of the same folder"):
        resolve_model(str(folder))
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    with pytest.raises(UserError, match=r"model.safetensors lacks a, which model.safetensors.index.json says is in it"):
        read_base(folder)


def test_a_tokenizer_that_cannot_be_read_is_named(
    model_folder: Path, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(os.fsdecode(path)) == model_folder / "tokenizer.json":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"cannot read .*tokenizer\.json: Permission denied; check the path"):
        merge(model_folder, ours, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_damaged_tokenizer_is_one_line(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    for content in ("null", "{}", "[" * 100_000, '{"model": {"type": "BPE"}}', "\0"):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=r"the tokenizer of .* cannot be loaded: .*; need tokenizer.json"):
            load_tokenizer(str(folder))
