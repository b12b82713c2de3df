"""Every config key that a stage reads is part of what its artefacts are made of, or cannot change a result."""

import contextlib
import functools
import itertools
import pathlib

import ml_collections
import pytest

from tests import ntm_tiny
from tests.histories import mini
from tests.test_layout import written
from tsdfm_jax import main
from tsdfm_jax.config import methods
from tsdfm_jax.workspace import graph

# Keys that change how fast a result comes, how it is split or shown, and not what it is.
NEUTRAL = {"log_every", "save_every", "evaluate_every", "data.workers", "data.text_loss", "evaluate.batch", "evaluate.judge_batch"}
NEUTRAL |= {f"mesh.{axis}" for axis in ("data", "fsdp", "tensor")}
NEUTRAL |= {"model.attention", "model.remat", "model.unroll"}  # they change a result by rounding alone
OF_STAGE = {"sample": ("sample",), "report": ("",)}  # a report names all of its config
OF_STAGE |= {"trajectories": ("models",), "student": ("models",)}  # which artefacts there are, not what they are
OF_STAGE |= {"autoregressive": ("flow.exponent",)}  # part of the path, of which it takes the vocabulary alone


@contextlib.contextmanager
def recording(read):
    """While the block runs, `read` collects the dotted keys that code asks a ConfigDict for."""
    plain, prefixes = ml_collections.ConfigDict.__getitem__, {}

    def get(self, key):
        value = plain(self, key)
        name = f"{prefixes.get(id(self), '')}{key}"
        if isinstance(value, ml_collections.ConfigDict):
            prefixes[id(value)] = f"{name}."
        else:
            read.add(name)
        return value

    ml_collections.ConfigDict.__getitem__ = get
    try:
        yield
    finally:
        ml_collections.ConfigDict.__getitem__ = plain


def run_recorded(monkeypatch, config, stages=()):
    """{stage: the keys that it read}, of these stages in the present directory; the bookkeeping itself may read all."""
    reads, plain_import = {}, methods.importlib.import_module

    def unrecorded(function):
        @functools.wraps(function)
        def call(*given, **named):
            current, main_read = set(reads.get("now", ())), reads.get("now")
            try:
                return function(*given, **named)
            finally:
                if main_read is not None:
                    main_read.clear(), main_read.update(current)

        return call

    monkeypatch.setattr(graph, "artefacts", unrecorded(graph.artefacts))
    monkeypatch.setattr(ml_collections.ConfigDict, "to_dict", unrecorded(ml_collections.ConfigDict.to_dict))
    monkeypatch.setattr(ml_collections.ConfigDict, "to_json", unrecorded(ml_collections.ConfigDict.to_json))
    copy = ml_collections.ConfigDict.copy_and_resolve_references
    monkeypatch.setattr(ml_collections.ConfigDict, "copy_and_resolve_references", unrecorded(copy))

    def import_module(name, *package):
        module, stage = plain_import(name, *package), name.rpartition(".")[2]
        if not name.startswith("tsdfm_jax.stages."):
            return module

        def run(*given, **named):
            reads["now"] = reads.setdefault(stage, set())
            with recording(reads["now"]):
                module.run(*given, **named)
            reads.pop("now")

        return type("Stage", (), {"run": staticmethod(run)})

    monkeypatch.setattr(methods.importlib, "import_module", import_module)
    main.run(config, pathlib.Path("W"), stages)
    return reads


# Ways through the code that read most keys.
CHANGES = {
    "student.target": "mixed",
    "compass.kind": "nce",
    "evaluate.frontier": "teacher:2",
    "shaping.policy": "sequence_to_token",
}


def test_no_stage_reads_a_key_that_its_identity_lacks(tmp_path, monkeypatch):
    """A whole run with all models; a key that is read and not in the identity could change unseen."""
    monkeypatch.chdir(tmp_path)
    state = mini.start("all")
    mini.write_inputs(pathlib.Path("input"), state)
    config = mini.get_config(state)
    config.update_from_flattened_dict(CHANGES)
    config.report.traces, config.evaluate.batch = 1, 8  # eight devices
    reads = run_recorded(monkeypatch, config)
    assert set(reads) == set(methods.TSDFM.order) and all(reads.values())
    assert not uncovered(config, reads, NEUTRAL, OF_STAGE)


def uncovered(config, reads, neutral, of_stage):
    """{stage: the keys that it read and that neither its identity nor that of its inputs has}."""
    made, unknown = graph.artefacts(config, lambda name, stage: {}), {}
    for stage, keys in reads.items():
        names = graph.upstream(made, [name for name, one in made.items() if one.stage == stage] or list(made))
        covered = {key for name in names for key in (*made[name].keys, *made[name].figure_keys, *made[name].additions)}
        covered |= set(of_stage.get(stage, ()))
        is_covered = lambda key: any(f"{key}.".startswith(f"{one}.") or not one for one in covered)
        unknown |= {stage: left} if (left := sorted(filter(lambda key: not is_covered(key), keys - neutral))) else {}
    return unknown


NTM_OF_STAGE = {"sample": ("sample",), "report": ("",), "ntm": ("models",)}
# Checked alone: whether patches divide the images, or the latents.
NTM_OF_STAGE |= {"images": ("images.patch", "autoencoder.channels"), "autoencoder": ("images.patch",)}


def test_no_stage_of_ntm_reads_a_key_that_its_identity_lacks(tmp_path, monkeypatch):
    """All stages that there are, from the first on; a key that is read and not in the identity could change unseen."""
    stages = list(itertools.takewhile(written(methods.NTM).__contains__, methods.NTM.order))
    if not stages:
        pytest.skip("the method has no stages yet")
    monkeypatch.chdir(tmp_path)
    config = ntm_tiny.changed(**{"autoencoder.channels": 4})
    reads = run_recorded(monkeypatch, config, stages)
    assert set(reads) == set(stages) and all(reads.values())
    neutral = NEUTRAL | {"method", "sample.batch"}  # a work directory is of one method
    assert not uncovered(config, reads, neutral, NTM_OF_STAGE)


def test_a_key_that_an_identity_lacks_is_found():
    """The check itself: a key of a later stage, and one of the network that has no transporter, are told."""
    config = ntm_tiny.get_config()
    reads = {"images": {"seed", "ntm.batch"}, "flow_matching": {"transporter.flows", "model.width"}, "evaluate": {"ntm.batch"}}
    assert uncovered(config, reads, set(), {}) == {"images": ["ntm.batch"], "flow_matching": ["transporter.flows"]}
