"""README and documentation: short where they promise it, and of the code as it is."""

import ast
import importlib
import pathlib
import re

import pytest

from tests.test_layout import FLOORS
from tsdfm_jax.config import methods

ROOT = pathlib.Path(__file__).parent.parent
MEMBERS = re.findall(r"^::: (\S+)(?:\n    options:\n      members: \[(.*)\])?", (ROOT / "docs/api.md").read_text(), re.M)


def test_the_readme_is_one_screen():
    """Under 200 lines and 12 kB, and its two commands are there."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200 and len(text.encode()) < 12_000
    assert "pip install -e '.[demo]' && python -m tsdfm_jax.main --config=configs/quickstart.py" in text
    assert "pip install -e '.[test]' && pytest" in text


@pytest.mark.parametrize("name, members", MEMBERS)
def test_what_the_api_page_names_is_there(name, members):
    """Every module, class and member of docs/api.md exists and has a docstring; mkdocstrings leaves out in silence what does not."""
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(module), last)
    for one in [found, *(getattr(found, member) for member in members.split(", ") if member)]:
        assert one.__doc__, one


def test_the_map_names_every_module():
    """docs/layout.md names every room with every module of it, every floor, and the stages of a run are in the README."""
    page = (ROOT / "docs/layout.md").read_text()
    for file in (ROOT / "tsdfm_jax").glob("*/*.py"):
        if file.stem not in ("__init__",) and file.parent.name != "stages":
            [row] = [line for line in page.splitlines() if line.startswith(f"| `{file.parent.name}/` |")]
            listed = file.parent.name == "report" or re.search(rf"\b{file.stem}\b", row)
            assert listed, f"docs/layout.md does not name {file}"
    for number, rooms in enumerate(FLOORS, 1):
        [row] = [line for line in page.splitlines() if line.startswith(f"| {number} |")]
        assert set(re.findall(r"`(\w+)`", row)) == rooms
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{stage}`" in readme or stage == "autoregressive" for stage in methods.TSDFM.order)


def test_modules_that_prose_names_exist():
    """A path like tsdfm_jax/flow/jump.py or tests/… in a page, in code or in a script is one that there is."""
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("results/*.md"),
        *ROOT.glob("launch/*"),
        *ROOT.glob("configs/**/*.py"),
    ]
    pages = [p for p in [*pages, *ROOT.glob("tsdfm_jax/**/*.py")] if p.is_file() and p.name != "CHANGELOG.md"]
    for page in pages:
        for path in re.findall(r"\b((?:tsdfm_jax|tests|configs|launch)/[\w/]+\.(?:py|sh|sbatch))\b", page.read_text()):
            assert (ROOT / path).exists() or "NAME" in path or "nowhere" in path, f"{page} names {path}"


def test_every_module_has_a_docstring():
    """Every module of the package says in a sentence what it is."""
    for file in (ROOT / "tsdfm_jax").rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text())), file
