"""Runs whose groups of layers come from similarities: measured by the run, once, or from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_llama import Job, rows, write_model

from sharelora.cli.commands import main
from sharelora.layer_groups import read_similarity
from sharelora.support.errors import UserError
from sharelora.training.instructions.job import parse, run

# The random layers of the toy model are hardly similar to each other.
AUTO = ("--share_layers", "auto", "--similarity_threshold", "0.5", "--share", "ab")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """Paragraphs of different lengths."""
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(row["instruction"] + " " + row["output"] * (n % 3) for n, row in enumerate(rows(12))))
    return path


def plan(folder: Path) -> dict[str, object]:
    return json.loads((folder / "result.json").read_text())["plan"]


def test_a_run_measures_groups_and_goes_on_with_them(
    job: Job, sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*AUTO, "--similarity_sample", str(sample), "--expand_rank", "text", "--lora_modules", "q_proj,v_proj")
    out = job(*words, "--max_steps", "2").output_dir
    found = read_similarity(out / "similarity.json")
    assert found.layers == 2 and found.texts == 12 and found.sample == "texts.txt"
    # Two layers in one group: half the matrices at twice the rank.
    assert plan(out)["trainable"] == plan(out)["unshared"] / 2
    lora = job("--share", "none", "--output_dir", str(out.parent / "lora"), "--lora_modules", "q_proj,v_proj")
    assert plan(out)["trainable"] == plan(lora.output_dir)["trainable"]

    def never(*given: object, **options: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("sharelora.training.layer_groups._measure", never)
    job(*words, "--max_steps", "2")
    (out / "completed").unlink()
    job(*words, "--max_steps", "2")


def test_a_saved_similarity_gives_the_same_plan(job: Job, sample: Path, model_folder: Path, tmp_path: Path) -> None:
    main(f"similarity --model {model_folder} --sample {sample} --output {tmp_path / 'sim'} --bits 32".split())
    auto = job(*AUTO, "--similarity_sample", str(sample), "--max_steps", "2")
    file = tmp_path / "sim" / "similarity.json"
    given = job(*AUTO, "--share_layers", str(file), "--output_dir", str(tmp_path / "given"), "--max_steps", "2")
    assert plan(auto.output_dir) == plan(given.output_dir)
    assert read_similarity(file).between == read_similarity(auto.output_dir / "similarity.json").between


def test_a_dry_run_measures_nothing(words: list[str], sample: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = parse([*words, *AUTO, "--similarity_sample", str(sample), "--dry_run"])
    with caplog.at_level("INFO"):
        run(args)
    assert "the plan is LoRA's, without groups" in caplog.text
    assert not (args.output_dir / "similarity.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--share_layers", "auto"), "need texts to compare layers on; pass --similarity_sample"),
        (("--similarity_sample", "x.txt"), "found --similarity_sample without --share_groups auto"),
        (("--similarity_threshold", "0.9"), r"--similarity_threshold 0\.9 without similarities to group"),
        (("--share_layers", "no.json"), r"found no no\.json; need the similarity"),
        (("--share_layers", "auto", "--similarity_sample", "no.txt"), "no.txt not found"),
        ((*AUTO, "--similarity_sample", "SAMPLE", "--similarity_threshold", "1.1"), r"cosine similarity goes from -1"),
        ((*AUTO, "--similarity_sample", "SAMPLE", "--share", "none"), "share='none' shares nothing"),
        ((*AUTO, "--similarity_sample", "SAMPLE", "--share_across", "modules"), "keeps each layer apart"),
        ((*AUTO, "--similarity_sample", "SAMPLE", "--similarity_threshold", "1"), "the most similar are 0 and 1"),
    ],
)
def test_bad_input_is_one_line(
    job: Job, sample: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], message: str
) -> None:
    if "most similar" not in message:
        monkeypatch.setattr("sharelora.training.layer_groups.load_any", None)  # found before anything is loaded
    with pytest.raises(UserError, match=message):
        job(*(str(sample) if word == "SAMPLE" else word for word in more))


def test_similarities_of_another_model_are_refused(job: Job, sample: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", layers=3)
    main(f"similarity --model {other} --sample {sample} --output {tmp_path / 'sim'} --bits 32".split())
    with pytest.raises(UserError, match="is the similarity of other with num_hidden_layers 3; this model has 2"):
        job(*AUTO, "--share_layers", str(tmp_path / "sim" / "similarity.json"))


def test_several_processes_have_to_be_given_a_file(job: Job, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.training.layer_groups.processes", lambda: 2)
    with pytest.raises(UserError, match="one process measures; run sharelora similarity first"):
        job(*AUTO, "--similarity_sample", str(sample))
