"""The house: rooms that do not know each other, configs that build, keys that exist."""

import ast
import importlib.util
import pathlib

import pytest

from configs import base
from tsdfm_jax.config import settings

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = {"data", "models", "flow", "runtime"}
CONFIGS = sorted(p for p in [*ROOT.glob("configs/*.py"), ROOT / "tests/tiny.py"] if p.stem != "__init__")


def imported(file):
    """Modules of this package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"tsdfm_jax.{a.name}" for a in node.names] if node.module == "tsdfm_jax" else [node.module])
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


@pytest.mark.parametrize("room", sorted(ROOMS) + ["stages"])
def test_rooms_do_not_know_each_other(room):
    """A room on the ground floor imports no other room and nothing above it; a stage imports no other stage."""
    above = {"stages", "report"} | {file.stem for file in (ROOT / "tsdfm_jax").glob("*.py")} - {"__init__"}
    forbidden = (ROOMS - {room}) | above if room in ROOMS else {"stages", "main", "loading"}
    for file in (ROOT / "tsdfm_jax" / room).glob("*.py"):
        for module in imported(file):
            parts = module.split(".")
            assert parts[0] != "tsdfm_jax" or len(parts) < 2 or parts[1] not in forbidden, f"{file} imports {module}"


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_every_config_builds(file):
    """Every config file makes a locked config with exactly the base's keys, and all of its choices are valid."""
    config = load(file)
    assert config.is_locked
    assert keys(config) == keys(base.get_config())
    with config.unlocked():
        config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 1, 1, 8  # any batch divides
    settings.validate(config)


def keys(config, at=""):
    return {
        name for key, value in config.items() for name in (keys(value, f"{at}{key}.") if hasattr(value, "items") else {at + key})
    }


def test_every_key_is_read():
    """No key of the base config is dead: each one's name stands somewhere in the code as a field or a lookup."""
    code = "\n".join(f.read_text() for f in ROOT.glob("tsdfm_jax/**/*.py"))
    dead = [key for key in keys(base.get_config()) if key.split(".")[-1] not in code]
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
    """A choice that cannot work is refused before anything is computed, in one line that says what is wrong."""
    config = load(ROOT / "tests/tiny.py")
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError) as caught:
        settings.validate(config)
    assert said in str(caught.value) and "\n" not in str(caught.value)
