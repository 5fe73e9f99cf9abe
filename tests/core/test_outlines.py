"""The outlines of known models are what the models themselves have."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sharelora.models.known import SHAPES, meta_model
from sharelora.models.outlines import OUTLINES, outlined_sites
from sharelora.tuner.sites import find_sites

KNOWN = [name for name, shape in SHAPES.items() if shape["model_type"] in OUTLINES]


@pytest.mark.parametrize("name", KNOWN)
def test_an_outline_is_that_of_the_model(name: str) -> None:
    model = meta_model(name)
    sites = find_sites(model)
    assert outlined_sites(name, "all-linear") == sites
    for names in (["q_proj", "v_proj"], ["dense"], ["query", "intermediate.dense"], ["c_proj"], ["mlp.c_proj"]):
        if any(f".{site.path}".endswith(f".{names[0]}") for site in sites):
            assert outlined_sites(name, names) == find_sites(model, names)


@pytest.mark.parametrize(
    ("model", "modules"),
    [
        ("llama3-8b", r".*q_proj"),
        ("llama3-8b", None),
        ("llama3-8b", ["q_proj", "embed_tokens"]),
        ("llama3-8b", ["lm_head"]),
        ("llama3-8b", ["mlp"]),
        ("deberta-v2-xxlarge", "all-linear"),
        ("somebody/else", "all-linear"),
    ],
)
def test_the_rest_is_looked_up_in_the_model(model: str, modules: list[str] | str | None) -> None:
    assert outlined_sites(model, modules) is None


def test_a_plan_of_a_known_model_loads_no_torch() -> None:
    command = "['sharelora', 'plan', '--model', 'llama3-8b', '--share', 'a']"
    program = f"""
import sys
sys.argv = {command}
from sharelora.cli.commands import entry
try:
    entry()
except SystemExit as end:
    assert not end.code
print(sorted({{'torch', 'transformers', 'peft'}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]" and "self_attn.q_proj" in done.stdout
