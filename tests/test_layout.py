"""The layout of the package: which subpackage imports which; configs that build, keys that are read."""

import ast
import importlib.util
import pathlib
import re

import pytest

from configs import base, ntm_base
from tsdfm_jax.config import methods, validation

ROOT = pathlib.Path(__file__).parent.parent
# Subpackages ("rooms") in layers ("floors"), lowest first. A room imports its own modules and lower floors only.
FLOORS = (
    {"storage"},
    {"data", "models", "flow", "ntm", "runtime", "lineage", "report"},
    {"config"},
    {"workspace"},
    {"inference"},
    {"distillation", "evaluation", "normalizing"},
    {"exchange"},
    {"stages", "experiments"},
    {"main"},
)
CONFIGS = sorted(
    p for p in [*ROOT.glob("configs/*.py"), ROOT / "tests/tiny.py", ROOT / "tests/ntm_tiny.py"] if p.stem != "__init__"
)
BASES = {"tsdfm": base, "ntm": ntm_base}  # of each method


def imported(file):
    """Full names of everything that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


def modules():
    """{dotted name: file} of the whole package and of launch/."""
    files = [*ROOT.glob("tsdfm_jax/**/*.py"), *ROOT.glob("launch/*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    assert len(names) > 100
    return names


def known(name, names):
    """The package module of an imported name (tsdfm_jax.flow.path for tsdfm_jax.flow.path.sample_xt); None for other packages."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name or None


def graph():
    """{module: the modules of the package that it imports}."""
    names = modules()
    return {name: {known(found, names) for found in imported(file)} - {None, "tsdfm_jax"} for name, file in names.items()}


def test_the_floors_hold():
    """Every module is in a known room and imports only its own room and lower floors; a stage imports no other stage."""
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for name, found in graph().items():
        if name.split(".")[0] == "launch" or name == "tsdfm_jax":
            continue
        room = name.split(".")[1]
        assert room in floor, f"{name} is in no room"
        for other in found:
            assert other.split(".")[0] == "tsdfm_jax", f"{name} imports {other}"
            its = other.split(".")[1]
            same = its == room and room != "stages"
            assert same or floor[its] < floor[room], f"{name} imports {other}"


def test_nothing_imports_in_a_circle():
    """No two modules import each other, directly or through others."""
    left = graph()
    while left:
        free = [name for name, found in left.items() if not found & set(left) - {name}]
        assert free, f"these import each other: {sorted(left)}"
        left = {name: found for name, found in left.items() if name not in free}


def test_every_room_says_what_it_is_for():
    """Every subpackage's docstring is one line; the top level has only __init__.py and main.py."""
    assert {p.name for p in (ROOT / "tsdfm_jax").glob("*.*") if p.is_file()} == {"__init__.py", "main.py"}
    rooms = [p for p in (ROOT / "tsdfm_jax").rglob("*") if p.is_dir() and list(p.glob("*.py"))]
    for room in rooms:
        told = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
        assert told and len(told.splitlines()) == 1 and told.endswith("."), room


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_every_config_builds(file):
    """Every config file builds a locked config with exactly the keys of its method's base, and valid values."""
    config = load(file)
    assert config.is_locked
    assert keys(config) == keys(BASES[methods.of(config).name].get_config())
    with config.unlocked():
        config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 1, 1, 8  # so that any batch divides
    validation.validate(config)


def keys(config, at=""):
    return {
        name for key, value in config.items() for name in (keys(value, f"{at}{key}.") if hasattr(value, "items") else {at + key})
    }


def written(method):
    """The stages of a method that there are, in order."""
    folder = ROOT / method.stages.replace(".", "/")
    return [stage for stage in method.order if (folder / f"{stage}.py").exists()]


@pytest.mark.parametrize("name", BASES)
def test_every_key_is_read(name):
    """No key of a base config is dead: the name of each occurs in the package's code, where the method has all of its stages."""
    if lacking := set(methods.METHODS[name].order) - set(written(methods.METHODS[name])):
        pytest.skip(f"the method {name} has no stages {', '.join(sorted(lacking))} yet")
    files = [f for f in ROOT.glob("tsdfm_jax/**/*.py") if not f.stem.endswith(("validation", "artefacts"))]
    code = "\n".join(f.read_text() for f in files)
    dead = [key for key in keys(BASES[name].get_config()) if not re.search(rf"\b{key.split('.')[-1]}\b", code)]
    assert not dead


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("flow.source", "masked", "mask"),
        ("flow.jump", "leap", "bridge"),
        ("shaping.policy", "tokens", "sequence_to_token"),
        ("shaping.selection", "best", "argmin"),
        ("shaping.candidates", 0, "at least 1"),
        ("shaping.coins", "common", "shared"),
        ("shaping.span", 0, "at least 1"),
        ("trajectories.chain", "rk4", "fsdfm"),
        ("trajectories.midpoints", 12, "power of two"),
        ("student.target", "ends", "endpoint"),
        ("compass.kind", "nse", "nce"),
        ("compass.step_weights", (1.0,), "11"),
        ("teacher.loss", "mse", "kl"),
        ("teacher.batch", 12, "teacher.batch=12"),
        ("model.heads", 3, "heads"),
        ("mesh.tensor", 3, "devices"),
        ("data.holdout", 1.5, "1.5"),
        ("evaluate.temperature", 0.0, "above 0"),
        ("evaluate.top_p", 0.0, "top_p"),
        ("rounds", 0, "rounds"),
        ("judges.widths", (8,), "one length"),
    ],
)
def test_bad_choices_are_one_line(key, value, said):
    """An invalid value is refused before anything is computed, in one line that says what is wrong."""
    config = load(ROOT / "tests/tiny.py")
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError) as caught:
        validation.validate(config)
    assert said in str(caught.value) and "\n" not in str(caught.value)
