"""One seed gives the same curve and the same records on every mesh, without needless communication."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.pod import programs
from tsdfm_jax.experiments.planning import hlo
from tsdfm_jax.runtime import mesh as meshes

UPDATES = 4
SPLIT = [name for name in programs.MESHES if name != "one"]
# The longer programs only over the mesh that splits most.
UPDATES_OVER = [("teacher", name) for name in SPLIT] + [("student", "mixed")]
RECORDS_OVER = [("whole", name) for name in SPLIT] + [("chain", "mixed")]
# Collectives allowed on a mesh: gradients over a batch axis; on the others also weights and arrays as wide as D.
KINDS = {"data": {"all-reduce"}} | dict.fromkeys(("fsdp", "tensor", "mixed"), {"all-reduce", "all-gather", "reduce-scatter"})


def losses(name, mesh_name):
    """(loss and gradient norm of each of the first updates [UPDATES, 2], averaged weights after them)."""
    learner, compiled = programs.update(name, mesh_name)
    c, mesh, state, told = programs.config(), programs.mesh_of(mesh_name), learner.create(), []
    for number in range(UPDATES):
        rows = meshes.put_batch(mesh, programs.batch(c, name, number))
        state, figures = compiled(learner.step.func.seed_array, learner.step.args[0], state, rows)
        told.append([float(figures["loss"]), float(figures["grad_norm"])])
    return np.array(told), jax.device_get(state.averaged)


@pytest.mark.parametrize("name, mesh_name", UPDATES_OVER)
def test_the_same_curve_on_every_mesh(name, mesh_name):
    """Losses agree with one device's within 1e-5, gradient norms within 1e-4 (relative, float32)."""
    one, weights = losses(name, "one")
    other, others = losses(name, mesh_name)
    assert one[-1, 0] < one[0, 0]
    np.testing.assert_allclose(other[:, 0], one[:, 0], rtol=1e-5)
    np.testing.assert_allclose(other[:, 1], one[:, 1], rtol=1e-4)
    # Adam divides by the gradient's size, which amplifies rounding where the gradient is nearly zero.
    apart = [np.abs(a - b).mean() / np.abs(b).mean() for a, b in zip(jax.tree.leaves(others), jax.tree.leaves(weights)) if b.any()]
    assert max(apart) < 1e-3


def recorded(kind, mesh_name):
    weights, compiled = programs.generating_program(kind, mesh_name)
    c, mesh = programs.config(), programs.mesh_of(mesh_name)
    rows = meshes.put_batch(mesh, programs.batch(c, "teacher", 0))
    seed, first = jax.device_put((meshes.seed_word(c.seed + 2000), np.int32(32)), meshes.replicated(mesh))
    return jax.device_get(compiled(seed, weights, first, rows))


@pytest.mark.parametrize("kind, mesh_name", RECORDS_OVER)
def test_the_same_records_on_every_mesh(kind, mesh_name):
    """Tokens and choices are equal on every mesh, energies to rounding. (tests/laws counts tokens that rounding changes.)"""
    one, other = recorded(kind, "one"), recorded(kind, mesh_name)
    assert len(np.unique(one["index"])) == 3 and len(np.unique(one["states"])) > 0.9 * programs.V
    np.testing.assert_allclose(other.pop("energy"), one.pop("energy"), rtol=1e-4, atol=1e-5)
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)


# Where each compiled program comes from.
COMPILED = dict.fromkeys(("teacher", "student"), lambda name, mesh_name: programs.update(name, mesh_name)[1])
COMPILED |= dict.fromkeys(("whole", "chain"), lambda name, mesh_name: programs.generating_program(name, mesh_name)[1])
COMPILED |= {"sampler": lambda name, mesh_name: programs.sampling_program(mesh_name)}
COMPILED |= {"judge": lambda name, mesh_name: programs.judging_program(mesh_name)}


def dims(shape):
    """The dimensions of every array in a collective's shape."""
    return [tuple(int(n) for n in found.split(",") if n) for found in re.findall(r"\w+\[([\d,]*)\]", shape)]


@pytest.mark.parametrize("name, mesh_name", UPDATES_OVER + RECORDS_OVER + [("sampler", "mixed"), ("judge", "mixed")])
def test_what_a_step_exchanges(name, mesh_name):
    """A step exchanges only known kinds: nothing as wide as V but a table or its gradient, never the whole batch.

    Generation over `data` exchanges nothing: each device draws and scores the K candidates of its own texts.
    """
    found = hlo.collectives(COMPILED[name](name, mesh_name).as_text())
    generates = name in ("whole", "chain")
    assert {one.kind for one in found} <= (set() if generates and mesh_name == "data" else KINDS[mesh_name])
    assert found or (generates and mesh_name == "data")
    block = int(np.ceil(np.sqrt(programs.V)))  # the prefix sums' table has V as blocks × block
    for one in found:
        for shape in dims(one.shape):
            wide = {programs.V, block, block * block} & set(shape)
            assert not wide or set(shape) <= {programs.V, programs.WIDTH}, one
            assert programs.BATCH not in shape or programs.LENGTH not in shape, one  # never the whole batch


def test_every_logit_has_one_home():
    """The logits [B, L, V] of a batch are split over all devices of every mesh, without copies."""
    for mesh_name in SPLIT:
        c, mesh = programs.config(), programs.mesh_of(mesh_name)
        net, params = programs.network(c, mesh)

        def logits(params, x_BL):
            with meshes.constraints(mesh):
                return net.apply(params, x_BL, jnp.zeros(programs.BATCH), None)

        x_BL = meshes.put_batch(mesh, programs.batch(c, "teacher", 0))
        made = jax.jit(logits)(params, x_BL)
        shard = made.addressable_shards[0].data.shape
        assert np.prod(shard) * mesh.size == made.size and shard[2] == programs.V


@pytest.mark.parametrize("name, mesh_name, parts", [("teacher", "fsdp", 8), ("student", "mixed", 4)])
def test_born_in_parts(name, mesh_name, parts):
    """From initialisation, tables, their average and moments are split over fsdp × tensor, and blocks' weights over one or both."""
    learner, _ = programs.update(name, mesh_name)
    state = learner.create()
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    held = lambda tree: sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(tree))
    for tree in (state.params, state.ema, state.opt_state):
        matrices = [leaf for leaf in jax.tree.leaves(tree) if programs.V in leaf.shape and leaf.ndim == 2]
        assert matrices and all(held([leaf]) * parts == size([leaf]) for leaf in matrices)
        blocks = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim == 3 and programs.WIDTH in leaf.shape[1:]]
        assert held(blocks) < 0.5 * size(blocks)
    assert size(state.params) == size(learner.abstract.params) == size(state.ema)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_recomputing_changes_nothing(remat):
    """Rematerialisation changes losses by at most 1e-6 and gradient norms by 1e-5 (relative)."""
    plain = losses("teacher", "mixed")[0]
    c, mesh = programs.config(**{"model.remat": remat}), programs.mesh_of("mixed")
    learner = programs.learner(c, "teacher", mesh)
    state = learner.create()
    for number in range(2):
        state, figures = learner.step(state, meshes.put_batch(mesh, programs.batch(c, "teacher", number)))
        np.testing.assert_allclose(float(figures["loss"]), plain[number, 0], rtol=1e-6)
        np.testing.assert_allclose(float(figures["grad_norm"]), plain[number, 1], rtol=1e-5)


def test_bfloat16_computes_and_float32_keeps():
    """Under bfloat16, matrix products are bfloat16, the stored state stays float32, and the loss is within 2 %."""
    plain = losses("teacher", "data")[0]
    c, mesh = programs.config(**{"model.dtype": "bfloat16"}), programs.mesh_of("data")
    learner = programs.learner(c, "teacher", mesh)
    rows = meshes.put_batch(mesh, programs.batch(c, "teacher", 0))
    text = learner.lower(programs.abstract(mesh, programs.batch(c, "teacher", 0))).as_text()
    assert re.search(r"dot_general.*bf16>", text)
    state, figures = learner.step(learner.create(), rows)
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(state))
    np.testing.assert_allclose(float(figures["loss"]), plain[0, 0], rtol=2e-2)


def test_a_window_that_does_not_split_is_refused():
    """A window length that the tensor axis does not divide is refused in one line."""
    with pytest.raises(ValueError, match="data.length=18 is not divisible by mesh.tensor=4"):
        meshes.require_positions(18, programs.mesh_of("tensor"), "data.length")
