"""`import sharelora` is light, makes PEFT know the adapters all the same, and finds modules under their old names."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

import sharelora
from sharelora.reporting import environment
from sharelora.support.old_names import OLD_FUNCTIONS, OLD_NAMES
from sharelora.tuner import versions
from sharelora.tuner.config import library_versions

HEAVY = ("torch", "transformers", "peft", "numpy", "datasets", "huggingface_hub", "yaml", "PIL", "matplotlib")
# Packages with names that are imported on first use.
LAZY = (
    *("sharelora", "sharelora.cli", "sharelora.continual", "sharelora.convert", "sharelora.data"),
    *("sharelora.data.glue", "sharelora.data.nlg", "sharelora.data.vision", "sharelora.evaluation.beam"),
    *("sharelora.evaluation.generation", "sharelora.memory", "sharelora.models", "sharelora.tiny", "sharelora.tuner"),
)
SAVED = "sharelora_adapter"


def python(program: str, *words: str, folder: Path | None = None) -> str:
    """Run a program in a process of its own and return what it printed."""
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved adapter and the base that it belongs to."""
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("face")
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    base = LlamaForCausalLM.from_pretrained(folder / "base")
    model = get_peft_model(base, sharelora.ShareLoraConfig(r=2, share="a", target_modules=["q_proj"]))
    model.save_pretrained(str(folder / SAVED))
    return folder


def test_the_face_is_light() -> None:
    out = python(f"import sys, sharelora; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert out.strip() == "[]"


def test_a_source_tree_that_is_not_installed_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def absent(asked: str) -> str:
        if asked == "sharelora":
            raise importlib.metadata.PackageNotFoundError(asked)
        return real(asked)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    for found in (library_versions(), environment.versions()):
        assert found["sharelora"] == sharelora.__version__ and found["peft"] == real("peft")


@pytest.mark.parametrize(
    "imports",
    [
        "import sharelora; import peft",
        *(
            pytest.param(lines, marks=pytest.mark.slow)
            for lines in (
                "import peft; import sharelora",
                "import sharelora; from peft import PeftModel",
                "import sharelora.tuner.layer; import peft",
                "import importlib.util, sharelora; importlib.util.find_spec('peft'); import peft.utils",
            )
        ),
    ],
)
def test_peft_knows_the_adapters_whatever_is_imported_first(adapter: Path, imports: str) -> None:
    program = f"""
import sys
{imports}
from peft import PeftModel
from transformers import LlamaForCausalLM
model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained("base"), {SAVED!r})
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "sharelora.tuner.with_peft"]
print(type(model.base_model).__name__, "loaded by", type(sys.modules["peft"].__spec__.loader).__name__)
"""
    out = python(program, folder=adapter)
    assert "ShareLoraModel loaded by SourceFileLoader" in out
    # bitsandbytes advises to install another package when it is imported, unless it was told before not to.
    assert "gemm_4bit" not in out or imports.startswith("import peft")


@pytest.mark.slow
def test_peft_knows_the_adapters_if_transformers_imports_it(adapter: Path) -> None:
    program = f"""
import sys
import sharelora
from transformers import LlamaForCausalLM
model = LlamaForCausalLM.from_pretrained("base")
try:
    model.load_adapter({SAVED!r})
except ValueError as error:  # it knows what it is, and that its bank needs a tuner of its own
    print(error)
"""
    out = python(program, folder=adapter)
    assert "PeftType.SHARELORA because it uses shared state" in out and "gemm_4bit" not in out


def test_the_versions_that_are_needed_are_those_of_the_project(root: Path) -> None:
    dependencies = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {f"{name}{wanted}" for name, wanted in versions.NEEDED.items()} <= set(dependencies)
    assert all(wanted.startswith(">=") for wanted in versions.NEEDED.values())
    versions.check()


@pytest.mark.parametrize(
    ("name", "found", "old"),
    [
        *(("peft", found, True) for found in ("0.9.1", "0.17.1", "0.20.0.dev0")),
        *(("transformers", found, True) for found in ("4.57.3", "5.9.0")),
        *(("torch", found, True) for found in ("1.99", "2.9.1+cpu", "2.10.0+cu130")),
        *(("peft", found, False) for found in ("0.21", "0.21.0.dev0", "0.22.1", "1.0")),
        *(("torch", found, False) for found in ("2.11.0a0+git1", "2.13.0+cu130", "10.0")),
    ],
)
def test_only_an_older_version_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, found: str, old: bool) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda asked: found if asked == name else real(asked))
    if not old:
        return versions.check()
    wanted = f"{name}{versions.NEEDED[name]}"
    message = f'{name} {found} is installed; sharelora needs {wanted}; run: python -m pip install "{wanted}"'
    with pytest.raises(ImportError) as caught:
        versions.check()
    assert str(caught.value) == message and isinstance(caught.value, sharelora.UserError)


@pytest.mark.parametrize(
    "imports",
    [
        "import sharelora, peft",
        pytest.param("import peft, sharelora", marks=pytest.mark.slow),
        "import sharelora; sharelora.ShareLoraConfig",
        "from sharelora.tuner.layer import ShareLinear",
        pytest.param(
            "import sharelora; from transformers.integrations.peft import is_peft_available; "
            "assert is_peft_available(); import peft",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_old_peft_does_not_come_to_load_an_adapter(tmp_path: Path, imports: str) -> None:
    distribution = tmp_path / "peft-0.17.1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.17.1\n")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
for attempt in range(2):
    try:
        {imports}
    except ImportError as error:
        print(error)
"""
    line = 'peft 0.17.1 is installed; sharelora needs peft>=0.21,<0.22; run: python -m pip install "peft>=0.21,<0.22"'
    # The advice of bitsandbytes, which a PEFT that is imported first brings along, as above.
    assert [said for said in python(program).splitlines() if "gemm_4bit" not in said] == [line] * 2


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_old_names_of_modules_are_the_new_modules(old: str, new: str) -> None:
    for name in [name for name in sys.modules if name == f"sharelora.{old}"]:
        del sys.modules[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(f"sharelora.{old}")
    assert module is importlib.import_module(f"sharelora.{new}")
    assert module.__name__ == module.__spec__.name == f"sharelora.{new}"  # type: ignore[union-attr]
    messages = [str(warning.message) for warning in caught if warning.category is DeprecationWarning]
    assert f"sharelora.{old} is now sharelora.{new}; import it from there" in messages


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in OLD_FUNCTIONS.items() for name in names]
)
def test_old_names_of_functions_are_the_new_functions(module: str, name: str) -> None:
    room, new = OLD_FUNCTIONS[module][name]
    with pytest.warns(DeprecationWarning, match=rf"sharelora\.{module}\.{name} is now sharelora\.{room}\.{new}"):
        function = getattr(importlib.import_module(f"sharelora.{module}"), name)
    assert function == getattr(importlib.import_module(f"sharelora.{room}"), new)


def test_the_warning_names_the_line_that_imports(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sharelora\n\nfrom sharelora.errors import UserError\nprint(UserError.__module__)\n")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "sharelora.support.errors"
    assert f"{program}:3: DeprecationWarning: sharelora.errors is now sharelora.support.errors" in done.stderr


def test_an_old_package_has_the_modules_that_kept_their_names() -> None:
    from sharelora.convert import merging

    with pytest.warns(DeprecationWarning, match=r"sharelora\.checkpoint\.merging is now sharelora\.convert\.merging"):
        sys.modules.pop("sharelora.checkpoint.merging", None)
        assert importlib.import_module("sharelora.checkpoint.merging") is merging
    with pytest.raises(ModuleNotFoundError, match=r"sharelora\.checkpoint\.nothing"):
        importlib.import_module("sharelora.checkpoint.nothing")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("sharelora.nothing")


@pytest.mark.slow
def test_names_of_modules_that_are_packages_now() -> None:
    lines = """
import sharelora.cli.commands, sharelora.convert.compression, sharelora.memory.estimator
from sharelora.cli import entry, main
from sharelora.convert import compress
from sharelora.memory import BYTES, Estimate, estimate
from sharelora.models import load_base, load_tokenizer
from sharelora.plan import Entry, SharingPlan, Site
from sharelora.tuner import ShareLoraModel
print(*[type(value).__name__ for value in (main, entry, compress, estimate, load_base, load_tokenizer)])
"""
    assert python(lines).split() == ["function"] * 6


@pytest.mark.parametrize("name", LAZY)
def test_every_name_of_a_lazy_package_is_there(name: str) -> None:
    package = importlib.import_module(name)
    assert "__getattr__" in vars(package)
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    names = {
        alias.name
        for block in blocks
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names and names <= set(dir(package))
    for one in names:
        assert getattr(package, one) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018
    if hasattr(package, "__all__"):
        assert set(package.__all__) == names
