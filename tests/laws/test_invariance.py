"""Invariance: a sample depends only on seed and index; trajectories are the same for any devices, stop and resume."""

import contextlib
import functools
import os
import shutil

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies

from tests import earlier, tiny
from tsdfm_jax import main
from tsdfm_jax.config import settings
from tsdfm_jax.data import records
from tsdfm_jax.distillation import generation
from tsdfm_jax.flow import sampler
from tsdfm_jax.inference import sampling
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import checkpoint, mesh as meshes, signals
from tsdfm_jax.workspace import graph, trained

RATE = 1e-5  # the share of tokens that float32 rounding may change
V, LENGTH, STEPS, BATCH = 31, 16, 8, 256
SMALL = {"data.length": LENGTH, "model.blocks": 1, "model.width": 16, "model.heads": 2, "shaping.candidates": 4}
SMALL |= {"trajectories.midpoints": STEPS, "trajectories.batch": BATCH, "compass.from_teacher": False}
SIZES = {"kernel": 1.0, "embedding": 1.0, "scale": 0.1, "bias": 0.1}


def config(**changes):
    c = tiny.get_config()
    with c.unlocked():
        c.update_from_flattened_dict(SMALL | changes)
    return c


def network(c, text_vocab):
    """A teacher's `apply`, its boxed shapes, and random weights without zeros, so that the logits vary."""
    cfg = settings.network(c, settings.path(c, text_vocab).vocab)
    boxed = jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg, c.data.length))
    rng = np.random.default_rng(0)

    def draw(where, leaf):
        name = where[-1].key
        size = SIZES[name] / np.sqrt(leaf.shape[-2] if name == "kernel" else 1)
        return (rng.normal(size=leaf.shape) * size + (name == "scale")).astype(np.float32)

    return functools.partial(transformer.apply, cfg), boxed, jax.tree_util.tree_map_with_path(draw, meshes.unbox(boxed))


def mesh_of(data, fsdp=1, tensor=1):
    """A mesh over the first devices."""
    return meshes.make_mesh(meshes.MeshConfig(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])


def compare(figures, name, states_NSL, other_NSL):
    """Add the tokens that differ to the running counts, and assert that their rate is below RATE.

    After a first difference two samples go separate ways, so rounding counts only where the state before is still
    equal: `decided` of `at_risk` tokens, the `rate`. The `share`, `differing` of `symbols`, includes all later tokens.
    """
    differs_NSL = states_NSL != other_NSL
    parts_NS = differs_NSL.any(axis=2)
    fresh_NS = np.cumsum(parts_NS, axis=1) - parts_NS == 0
    counts = {"symbols": differs_NSL.size, "differing": differs_NSL.sum()}
    counts |= {"at_risk": fresh_NS.sum() * differs_NSL.shape[2], "decided": differs_NSL[fresh_NS].sum()}
    before = figures.setdefault("invariance", {}).get(name, {})
    tally = {key: int(count) + before.get(key, 0) for key, count in counts.items()}
    tally |= {"share": tally["differing"] / tally["symbols"], "rate": tally["decided"] / tally["at_risk"]}
    figures["invariance"][name] = tally
    assert tally["rate"] < RATE, tally


@pytest.mark.parametrize("source, others", [
    ("uniform", [((1,), 8, 40), ((2, 2, 2), 64, 1024)]),
    ("mask", [((2,), 512, 1000), ((4, 1, 2), 16, 500)]),
])  # fmt: skip
def test_a_sample_is_its_own(figures, monkeypatch, source, others):
    """Text i of a seed does not depend on batch, number of texts, devices or order of indices."""
    c, number = config(**{"flow.source": source}), 1024
    path, (apply, boxed, params) = settings.path(c, V), network(c, V)

    def texts(mesh, batch, number):
        draw = sampling.Sampler(apply, path, mesh, LENGTH, batch, settings.sampler_config(c, c.evaluate))
        weights = jax.device_put(params, meshes.shardings(mesh, boxed))
        return lambda: draw(weights, 5, number, STEPS)[0][:, None]

    draw = texts(mesh_of(8), 128, number)
    text_N1L = draw()
    for shape, batch, some in others:
        compare(figures, "texts", text_N1L[:some], texts(mesh_of(*shape), batch, some)())
    order_N, key_of = jax.numpy.array(np.random.default_rng(0).permutation(number)), sampler.sample_keys

    def shuffled(seed, first, count):
        number_B = jax.lax.dynamic_slice(order_N, (first,), (count,))
        return jax.vmap(lambda i: key_of(seed, i, 1)[0])(number_B)

    monkeypatch.setattr(sampler, "sample_keys", shuffled)
    draw = texts(mesh_of(8), 128, number)  # compiled again, with the shuffled keys
    compare(figures, "texts", text_N1L[order_N], draw())
    assert len(np.unique(text_N1L, axis=0)) == number


BATCHES = {"uniform": 3, "mask": 2}


def generated(c, kind, mesh, number):
    """Records of one kind as the stage makes them, over a mesh."""
    apply, boxed, params = network(c, V)
    jitted = generation.program(c, V, mesh, kind, "shaped", apply)
    weights = {"generator": jax.device_put(params, meshes.shardings(mesh, boxed)), "compass": None}
    data = lambda numbers: np.stack([np.random.default_rng(i).integers(0, V, LENGTH) for i in numbers]).astype(np.int32)
    put = lambda first: meshes.put_whole(mesh, data(range(first, first + BATCH)))
    rows = [jax.device_get(jitted(weights, np.int32(first), put(first))) for first in range(0, number, BATCH)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("source, kind, counts", [
    ("uniform", "whole", (2, 4, 8)),
    ("mask", "whole", (2, 4, 8)),
    ("mask", "chain", (8,)),
])  # fmt: skip
def test_trajectories_do_not_depend_on_the_devices(figures, source, kind, counts):
    """1, 2, 4 and 8 devices record the same tokens, rounding apart."""
    c, number = config(**{"flow.source": source, "trajectories.chain": "heun"}), BATCHES[source] * BATCH
    one = generated(c, kind, mesh_of(1), number)
    assert len(np.unique(one["index"])) == 4 and len(np.unique(one["states"])) >= V
    for count in counts:
        other = generated(c, kind, mesh_of(count), number)
        for name in {"x_1", "x_t", "t", "h"} & set(one):
            assert (one[name] == other[name]).all()
        assert kind == "chain" or (one["states"][:, 0] == other["states"][:, 0]).all()
        made = slice(1, None) if kind == "whole" else slice(None)
        compare(figures, f"trajectories_{kind}", one["states"][:, made], other["states"][:, made])


STAGE = {"student.target": "mixed", "trajectories.chain": "heun", "data.length": 8, "data.limit_bytes": 100_000}
STAGE |= {"tokenizer.vocab_size": 330, "trajectories.midpoints": 4, "trajectories.batch": 8, "trajectories.shard": 32}


@pytest.fixture(scope="module")
def generating(tmp_path_factory):
    """A work directory ready for trajectories, with a random teacher; `never_stopped` has an undisturbed run's."""
    c, where = config(**STAGE), tmp_path_factory.mktemp("generating")
    main.run(c, where, ["tokenizer", "data"])
    tok = trained.tokenizer(c, where)
    _, _, params = network(c, tok.vocab_size)
    for name in ("teacher", "compass"):  # the compass looks ahead and has no weights
        mark = graph.fingerprint(c, name)
        if name == "teacher":
            checkpoint.save_params(where / name / "model", params, {"tokenizer": tok.content_hash})
        figures = {"teacher": {"hash": checkpoint.tree_hash(params)}, "compass": {"kind": "lookahead"}}[name]
        earlier.finish(where / name, mark, figures)
    main.run(c, where, ["trajectories"])
    shutil.move(where / "trajectories", where / "never_stopped")
    return where


def files(directory):
    """Contents of the shards, notes and manifests of all sets."""
    return {
        file.relative_to(directory): file.read_bytes()
        for file in sorted(directory.glob("**/*"))
        if file.parent.name in generation.KINDS
    }


class Killed(BaseException):
    """An exception that no `except Exception` catches."""


def interrupted(monkeypatch, where, how, after):
    """Run the stage and stop it, or kill it at a file's renaming, after `after` chances."""
    left, replace = iter(range(after)), os.replace
    stop = lambda: next(left, None) is None

    def dying(source, destination):
        if stop():
            raise Killed
        replace(source, destination)

    with monkeypatch.context() as patched:
        if how == "stop":
            patched.setattr(signals, "stop_requested", stop)
        else:
            patched.setattr(os, "replace", dying)
        with contextlib.suppress(signals.Interrupted, Killed):
            main.run(config(**STAGE), where, ["trajectories"])


STOPS = strategies.lists(
    strategies.tuples(strategies.sampled_from(["stop", "kill"]), strategies.integers(0, 20)), min_size=1, max_size=3
)


@hypothesis.given(stops=STOPS)
@hypothesis.settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
def test_any_stop_and_resume_is_never_stopped(generating, monkeypatch, stops):
    """After any stops and kills the stage's shards, notes and manifests end the same to the bit."""
    shutil.rmtree(generating / "trajectories", ignore_errors=True)
    for how, after in stops:
        interrupted(monkeypatch, generating, how, after)
    main.run(config(**STAGE), generating, ["trajectories"])
    assert files(generating / "trajectories") == files(generating / "never_stopped") and files(generating / "trajectories")


def test_stopped_and_resumed_on_other_devices(figures, generating, monkeypatch):
    """A run that moves from eight devices to two and back keeps its finished shards and gives the same rest, rounding apart.

    Rounding differs with the devices, so one text of a set may differ, as on one of two kinds of machine. An error at a
    stop or restart would change all later texts.
    """
    where, want = generating / "trajectories", generating / "never_stopped"
    shutil.rmtree(where, ignore_errors=True)
    interrupted(monkeypatch, generating, "stop", 6)
    first = files(where)
    with monkeypatch.context() as patched:
        patched.setattr(settings, "mesh", lambda config: mesh_of(2))  # a mesh from a config has all devices
        interrupted(monkeypatch, generating, "stop", 9)
    main.run(config(**STAGE), generating, ["trajectories"])
    assert first and first.items() <= files(want).items() and first.items() <= files(where).items()
    assert files(where).keys() == files(want).keys()
    for manifest in sorted(where.glob("*/*/*/manifest.json")):
        stores = [records.open_store(root / manifest.parent.relative_to(where)) for root in (where, want)]
        one, other = ({n: np.stack([row[n] for row in store]) for n in store.schema.fields} for store in stores)
        same = {name: np.isclose(one[name], other[name], rtol=1e-5, atol=1e-5 if name == "energy" else 0.0) for name in one}
        same_N = np.all([of.reshape(len(of), -1).all(axis=1) for of in same.values()], axis=0)
        assert (~same_N).sum() <= 1, f"{(~same_N).sum()} of {len(same_N)} texts parted"
        compare(figures, "resumed", one["states"][same_N], other["states"][same_N])
