"""The table of methods: what each entry names is there, and what a config or a command gets wrong is one line."""

import inspect
import json

import pytest

from tests import ntm_tiny, tiny
from tests.test_layout import written
from tsdfm_jax import main
from tsdfm_jax.config import command_line, methods, validation
from tsdfm_jax.workspace import graph, record

TINY = {"tsdfm": tiny, "ntm": ntm_tiny}
# What the rest of the package asks a method's modules for, with the names of arguments.
INTERFACE = {
    "networks": {"models": ["config"], "unneeded": ["config", "stage"]},
    "validation": {"check": ["config"]},
    "inputs": {"check": ["config", "workdir", "stages"]},
    "artefacts": {
        "artefacts": ["config", "chain"],
        "directories": ["config", "stage"],
        "stage_keys": ["config", "stage"],
        "model_directory": ["config", "model"],
        "sampled": ["config"],
        "sources": ["config", "stage", "memory", "name"],
    },
}


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_has_what_is_asked_of_it(name):
    """Each module has the functions of the interface, the base is there, and the stages with artefacts begin the order."""
    method, config = methods.METHODS[name], TINY[name].get_config()
    for part, functions in INTERFACE.items():
        for function, arguments in functions.items():
            assert list(inspect.signature(getattr(method.load(part), function)).parameters) == arguments, (part, function)
    assert methods.of(config) is method and (command_line.CONFIGS / method.base).is_file()
    assert isinstance(method.load("validation").RANGES, validation.Ranges)
    assert method.order == (*graph.stages(config), "report", "sample")
    found = graph.of_method(config)
    assert set(found.NEEDED) <= set(config) and set(found.CONTENTS) <= set(graph.stages(config))
    made = graph.artefacts(config, lambda name, stage: {})
    for stage in method.order[:-1]:
        assert [one.name for one in made.values() if one.stage == stage] == graph.directories(config, stage)
        assert bool(graph.directories(config, stage)) == method.needs(config, stage)
    assert set(graph.sampled(config)) <= set(made)
    assert set(made) >= {graph.model_directory(config, model) for model in method.load("networks").models(config)}


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_key_of_an_identity_is_one(name):
    """The keys of KEYS are keys or sections of the base, and of every section what a stage makes depends on."""
    base = validation.base(methods.METHODS[name].base)
    for stage in methods.METHODS[name].load("artefacts").KEYS.values():
        for key in stage:
            assert any(f"{known}.".startswith(f"{key}.") for known in base), key


def test_a_config_without_a_method_is_of_the_first():
    """The key came with the second method; configs and work directories from before have none."""
    assert methods.of(tiny.get_config()) is methods.TSDFM and methods.of({}) is methods.TSDFM


def test_a_method_that_there_is_not(tmp_path):
    """It is one line with those that there are, before anything is written."""
    with pytest.raises(ValueError, match="method 'nmt' is not one of tsdfm, ntm: begin with base.py or ntm_base.py"):
        main.run(ntm_tiny.changed(method="nmt"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("config, stages, said", [
    (tiny, ["images"], "--stage=images is not one of tokenizer, .*, sample .it is one of the method ntm, and this config's is tsdfm"),
    (ntm_tiny, ["teacher"], "--stage=teacher is not one of images, .*, sample .it is one of the method tsdfm, and this .* ntm"),
    (ntm_tiny, ["imags"], "--stage=imags is not one of images, autoencoder, flow_matching, ntm, .*, sample$"),
    (ntm_tiny, ["ntm", ""], "--stage=ntm, has an empty name: .* images, autoencoder"),
])  # fmt: skip
def test_stages_of_another_method(tmp_path, config, stages, said):
    """A stage that the config's method does not have is one line that lists those that it has."""
    with pytest.raises(ValueError, match=said) as caught:
        main.run(config.get_config(), tmp_path / "run", stages)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_the_order_of_stages():
    """Stages run in the method's order, whatever order they are named in; rounds alternate where a method has them."""
    names = lambda todo: [name if not arguments else (name, *arguments) for name, arguments in todo]
    assert names(methods.NTM.plan((), 1)) == list(methods.NTM.order) == names(methods.NTM.plan((), 3))
    assert names(methods.NTM.plan(["sample", "ntm"], 1)) == ["ntm", "sample"]
    assert names(methods.TSDFM.plan(["student", "report", "data", "trajectories"], 2)) == [
        "data", ("trajectories", 0), ("student", 0), ("trajectories", 1), ("student", 1), "report",
    ]  # fmt: skip


def test_every_stage_that_there_is_runs():
    """A stage's module has `run(config, workdir, …, remake=False)`; one that is not written yet is no error of the table."""
    for method in methods.METHODS.values():
        for stage in written(method):
            arguments = inspect.signature(method.load(stage).run).parameters
            assert list(arguments)[:2] == ["config", "workdir"] and arguments["remake"].default is False
    assert written(methods.TSDFM) == list(methods.TSDFM.order)


def test_a_directory_of_another_method(tmp_path):
    """A run of another method stands in the way, and is left as it is; a command that is of one method says so."""
    record.write(tiny.get_config(), tmp_path, (), None)
    for call in (
        lambda: main.run(ntm_tiny.get_config(), tmp_path, ["flow_matching"]),
        lambda: main.run(ntm_tiny.get_config(), tmp_path, ["flow_matching"], remake=True),
        lambda: main.status(ntm_tiny.get_config(), tmp_path),
    ):
        with pytest.raises(ValueError, match="holds a run of the method tsdfm, and this config's is ntm: give another --workdir"):
            call()
    assert record.config(tmp_path).to_dict() == _plain(tiny.get_config())
    with pytest.raises(ValueError, match="launch.budget is for configs of the method tsdfm, and this one is of ntm"):
        methods.require(ntm_tiny.get_config(), "tsdfm", "launch.budget")


def test_the_config_of_a_run_of_ntm(tmp_path):
    """config.json of either method is read again; one that lacks sections, or is of another method, is one line."""
    record.write(ntm_tiny.get_config(), tmp_path, (), None)
    assert record.config(tmp_path).to_dict() == _plain(ntm_tiny.get_config())
    with pytest.raises(ValueError, match="is a run of the method ntm, and this is for runs of tsdfm"):
        record.config(tmp_path, "tsdfm")
    for text, said in (
        ('{"method": "ntm"}', "must have autoencoder, flow_matching, images"),
        ('{"method": "no"}', "'no' is not one of"),
        ("[]", "is not the config of a run .give"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=said) as caught:
            record.config(tmp_path)
        assert "\n" not in str(caught.value)


def _plain(config):
    """A config with tuples as lists, as JSON has them."""
    return json.loads(config.to_json())
