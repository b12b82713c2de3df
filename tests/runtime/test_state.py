"""Initialisation, update and average of the training state, on one device and on eight."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta
from jax.sharding import PartitionSpec

from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import mesh as mesh_lib, state as state_lib

CONFIG = state_lib.OptimiserConfig(learning_rate=0.02, warmup=2, steps=8)
EIGHT = mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x_BD, _):
        part = nn.with_logical_partitioning
        kernel = part(nn.initializers.lecun_normal(), ("embed", "mlp"))
        y_BD = nn.Dense(16, kernel_init=kernel, bias_init=part(nn.initializers.zeros, ("mlp",)))(x_BD)
        return nn.with_logical_constraint(x_BD + nn.tanh(y_BD), ("batch", "embed")), None


class Toy(nn.Module):
    @nn.compact
    def __call__(self, x_BD):
        stack = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={meta.PARTITION_NAME: "blocks"},
        )
        return stack(name="blocks")(x_BD, None)[0]


def init_params():
    return Toy().init(jax.random.key(0), jnp.zeros((1, 16)))["params"]


def student_of(given):
    """The toy's parameters, boxed, with given values."""
    return transformer.overlay(init_params(), given)


@functools.cache
def fresh():
    """The toy's unboxed parameters, on one device."""
    return jax.jit(lambda: mesh_lib.unbox(init_params()))()


def loss_fn(key, params, batch):
    del key
    error = Toy().apply({"params": params}, batch["x"]) - batch["y"]
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}


def noisy_loss(key, params, batch):
    noise = jax.random.normal(key, batch["x"].shape)
    loss, aux = loss_fn(key, params, {"x": batch["x"] + noise, "y": batch["y"]})
    return loss, aux


def rows(seed, count=16):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 16)).astype(np.float32)
    return {"x": x, "y": np.roll(x, 1, axis=1)}


def one_device():
    return mesh_lib.make_mesh(mesh_lib.MeshConfig(), jax.devices()[:1])


def train(mesh, loss=loss_fn, cfg=CONFIG, updates=3, seed=7, **kwargs):
    optimiser = state_lib.make_optimiser(cfg)
    state, shardings = state_lib.create(init_params, optimiser, mesh, ema=True)
    step = state_lib.make_step(loss, optimiser, cfg, mesh, shardings, seed, **kwargs)
    history = []
    for n in range(updates):
        state, metrics = step(state, mesh_lib.put_batch(mesh, rows(n)))
        history.append(jax.device_get(metrics))
    return state, history


def test_born_sharded():
    """Initial weights, average and moments are split by the same rules; the weights equal those of one device."""
    optimiser = state_lib.make_optimiser(CONFIG)
    state, shardings = state_lib.create(init_params, optimiser, mesh_lib.make_mesh(EIGHT), ema=True)
    kernel = lambda tree: tree["blocks"]["Dense_0"]["kernel"]
    moments = optax.tree_utils.tree_get(state.opt_state, "mu"), optax.tree_utils.tree_get(state.opt_state, "nu")
    for tree in (state.params, state.ema, *moments):
        assert kernel(tree).sharding.spec == PartitionSpec(None, "fsdp", "tensor")
        assert kernel(tree).addressable_shards[0].data.shape == (3, 8, 8)
    jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(f"{x.sharding}"), state, shardings)
    jax.tree.map(np.testing.assert_array_equal, state.params, fresh())
    jax.tree.map(np.testing.assert_array_equal, state.params, state.ema)


def test_abstract_is_what_create_makes():
    """The abstract state has the shapes, types and shardings of the created one."""
    optimiser, mesh = state_lib.make_optimiser(CONFIG), mesh_lib.make_mesh(EIGHT)
    state, _ = state_lib.create(init_params, optimiser, mesh, ema=True)
    shape = state_lib.abstract(init_params, optimiser, mesh, ema=True)
    same = lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype) and x.sharding.is_equivalent_to(y.sharding, x.ndim)
    assert jax.tree.all(jax.tree.map(same, state, shape))


def test_eight_devices_train_as_one():
    """The same seed gives the same losses, noise included, on one device, eight, and mixed meshes."""
    _, alone = train(one_device(), noisy_loss)
    for cfg in (mesh_lib.MeshConfig(data=4, fsdp=-1), EIGHT):
        _, together = train(mesh_lib.make_mesh(cfg), noisy_loss)
        for one, eight in zip(alone, together):
            assert one.keys() == eight.keys()
            for name in one:
                np.testing.assert_allclose(one[name], eight[name], rtol=2e-5, err_msg=f"{name} {cfg}")


def test_accumulation_is_a_big_batch():
    """Four microbatches give the update of the whole batch."""
    mesh = mesh_lib.make_mesh(EIGHT)
    cfg = state_lib.OptimiserConfig(learning_rate=0.02, warmup=2, steps=8, accumulate=4)
    whole, history = train(mesh)
    parts, accumulated = train(mesh, cfg=cfg)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole.params, parts.params)
    np.testing.assert_allclose([h["loss"] for h in history], [h["loss"] for h in accumulated], rtol=1e-5)


def counted_loss(params, rows, count):
    error = (Toy().apply({"params": params}, rows["x"]) - rows["y"]) ** 2
    weighed = (error * rows["weight"][:, None]).sum() / count
    return weighed + jnp.mean(error), {"weighed": weighed}


@pytest.mark.parametrize("accumulate", [2, 4, 16])
@pytest.mark.parametrize("share", [0.3, 0.0])
def test_a_ratio_of_microbatches_is_that_of_the_batch(accumulate, share):
    """A loss over a count that varies from row to row gives the whole batch's loss, parts and gradient, however it is split."""

    def prepare(key, batch, frozen):
        weight = (batch["x"][:, 0] < batch["x"][:, 0].mean() + 9) * (jnp.abs(batch["x"][:, 1]) * frozen > 1.0)
        return batch | {"weight": jnp.floor(3 * jnp.abs(batch["x"][:, 2])) * weight}

    loss = state_lib.Counted(prepare=prepare, count=lambda rows: rows["weight"].sum(), loss=counted_loss)
    mesh, frozen = one_device(), jnp.float32(3.0 if share else 0.0)
    run = lambda parts: train(mesh, loss, state_lib.OptimiserConfig(learning_rate=0.02, warmup=2, steps=8, accumulate=parts), frozen=frozen)  # fmt: skip
    whole, history = run(1)
    parts, accumulated = run(accumulate)
    for one, other in zip(history, accumulated):
        for name in ("loss", "weighed", "grad_norm"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
    assert (history[0]["weighed"] > 0) == (share > 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole.params, parts.params)


def test_a_counted_loss_of_one_batch_is_itself():
    """Without microbatches a Counted is its parts called one after the other, and its key is the step's."""
    loss = state_lib.Counted(
        prepare=lambda key, batch: batch | {"weight": jax.random.uniform(key, batch["x"].shape[:1])},
        count=lambda rows: rows["weight"].sum(),
        loss=counted_loss,
    )
    batch = {name: jnp.asarray(value) for name, value in rows(0).items()}
    weight_B = jax.random.uniform(jax.random.key(3), (16,))
    direct = counted_loss(fresh(), batch | {"weight": weight_B}, jnp.maximum(weight_B.sum(), 1))
    np.testing.assert_array_equal(loss(jax.random.key(3), fresh(), batch)[0], direct[0])


def test_microbatches_that_do_not_divide_are_refused():
    """The error names batch, microbatches and devices."""
    cfg = state_lib.OptimiserConfig(learning_rate=0.02, warmup=2, steps=8, accumulate=3)
    with pytest.raises(ValueError, match="batch 16 is not divisible by 3 microbatches × 8 devices"):
        train(mesh_lib.make_mesh(mesh_lib.MeshConfig()), cfg=cfg)


def test_average_follows_its_formula():
    """The average follows the recurrence with decay min(d, (1+n)/(10+n)), in float32."""
    mesh, optimiser = one_device(), state_lib.make_optimiser(CONFIG)
    cfg = state_lib.OptimiserConfig(learning_rate=0.02, warmup=2, steps=8, ema=0.2)
    state, shardings = state_lib.create(init_params, optimiser, mesh, ema=True)
    step = state_lib.make_step(loss_fn, optimiser, cfg, mesh, shardings, 7)
    expected = jax.device_get(state.params)
    for n in range(6):
        state, _ = step(state, mesh_lib.put_batch(mesh, rows(n)))
        decay = min(0.2, (1 + n) / (10 + n))
        expected = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, expected, jax.device_get(state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.ema))


def test_without_an_average_there_is_none():
    """A stage that keeps no average has no second copy of the weights, and uses the weights themselves."""
    optimiser = state_lib.make_optimiser(CONFIG)
    state, _ = state_lib.create(init_params, optimiser, one_device(), ema=False)
    assert state.ema is None and state.averaged is state.params


def test_only_matrices_decay():
    """Weight decay shrinks kernels and leaves biases, which are two-dimensional when stacked."""
    optimiser = state_lib.make_optimiser(CONFIG)
    ones = jax.tree.map(jnp.ones_like, fresh())
    updates, _ = optimiser.update(jax.tree.map(jnp.zeros_like, ones), optimiser.init(ones), ones)
    dense = updates["blocks"]["Dense_0"]
    assert dense["bias"].ndim == 2 and np.all(dense["bias"] == 0) and np.all(dense["kernel"] < 0)
    with pytest.raises(ValueError, match="kernel or embedding"):
        optimiser.init({"w": jnp.ones((2, 2))})


@pytest.mark.parametrize("schedule, end", [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1)])
def test_schedules_warm_up_and_end_where_told(schedule, end):
    """The learning rate starts above zero, rises to its peak, never past it, and ends at its fraction."""
    cfg = state_lib.OptimiserConfig(learning_rate=2.0, warmup=10, steps=100, schedule=schedule)
    rates = jax.vmap(state_lib.learning_rate(cfg))(jnp.arange(101))
    np.testing.assert_allclose([rates[0], rates[9], rates[100]], [0.2, 2.0, 2.0 * end], rtol=1e-5)
    assert np.all(np.diff(rates[:10]) > 0) and np.all(np.diff(rates[10:]) <= 1e-6)


def test_a_student_does_not_eat_its_teacher():
    """A state made from given weights trains its own copy; the given arrays do not change."""
    mesh, optimiser = mesh_lib.make_mesh(EIGHT), state_lib.make_optimiser(CONFIG)
    teacher, _ = state_lib.create(init_params, optimiser, mesh, ema=True)
    before = jax.device_get(teacher.ema)
    state, shardings = state_lib.create(student_of, optimiser, mesh, ema=True, given=(teacher.ema,))
    jax.tree.map(np.testing.assert_array_equal, state.params, before)
    step = state_lib.make_step(loss_fn, optimiser, CONFIG, mesh, shardings, 7)
    state, _ = step(state, mesh_lib.put_batch(mesh, rows(0)))
    jax.tree.map(np.testing.assert_array_equal, teacher.ema, before)
    assert not np.array_equal(jax.tree.leaves(state.params)[1], jax.tree.leaves(before)[1])


def test_weights_of_another_shape_are_refused():
    """The error names the parameter that does not fit."""
    mesh, optimiser = one_device(), state_lib.make_optimiser(CONFIG)
    given = jax.tree.map(lambda x: x[:2], fresh())
    with pytest.raises(ValueError, match=r"blocks/Dense_0/bias.*\(2, 16\).*\(3, 16\)"):
        state_lib.create(student_of, optimiser, mesh, ema=True, given=(given,))


def test_a_learner_is_what_it_says():
    """A learner's abstract state matches its created state, its step is make_step's, and it lowers for an abstract batch."""
    mesh = mesh_lib.make_mesh(EIGHT)
    learner = state_lib.learner(init_params, noisy_loss, CONFIG, mesh, 7)
    batch = mesh_lib.put_batch(mesh, rows(0))
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    lowered = learner.lower(jax.tree.map(place, batch))
    state, metrics = learner.step(learner.create(), batch)
    assert lowered.out_info[1].keys() == metrics.keys()
    assert jax.tree.all(jax.tree.map(lambda a, b: place(a) == b, state, learner.abstract))
    assert float(metrics["loss"]) == train(mesh, noisy_loss, updates=1)[1][0]["loss"]


@pytest.mark.parametrize("seed", [7, 2**31 + 5])
def test_the_seed_is_an_argument(seed):
    """A step's key is fold_in(key(seed), step), also for a seed beyond int32."""
    only_key = lambda key, params, batch: (loss_fn(key, params, batch)[0], {"drawn": jax.random.uniform(key)})
    _, history = train(one_device(), only_key, updates=2, seed=seed)
    wanted = [jax.random.uniform(jax.random.fold_in(jax.random.key(seed), n)) for n in range(2)]
    np.testing.assert_array_equal([h["drawn"] for h in history], wanted)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_frozen_weights_and_average_reach_the_loss(accumulate):
    """`frozen` and the average are arguments of the step: the loss sees them, and no gradient changes them."""

    def distance(key, params, batch, frozen, average):
        loss, _ = loss_fn(key, params, batch)
        gap = lambda tree: sum(jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(tree)))
        return loss, {"to_frozen": gap(frozen), "to_average": gap(average)}

    frozen = jax.tree.map(lambda x: x + 1.0, fresh())
    cfg = state_lib.OptimiserConfig(learning_rate=0.02, warmup=2, steps=8, accumulate=accumulate)
    _, history = train(one_device(), distance, cfg, frozen=frozen, pass_ema=True)
    size = sum(leaf.size for leaf in jax.tree.leaves(frozen))
    np.testing.assert_allclose(history[0]["to_frozen"], size, rtol=1e-5)
    assert history[0]["to_average"] == 0 and history[2]["to_average"] > 0


def test_a_loss_that_is_no_number_is_flagged():
    """`finite` is 1 for a sound update and 0 if the loss or the gradient is not finite."""
    root = lambda key, params, batch: (jnp.sqrt(jnp.sum(params["blocks"]["Dense_0"]["bias"] ** 2)), {})
    _, sound = train(one_device(), updates=1)
    _, bad = train(one_device(), root, updates=1)
    assert sound[0]["finite"] == 1
    assert np.isfinite(bad[0]["loss"]) and bad[0]["finite"] == 0


def test_bad_settings_are_refused():
    """An invalid optimiser setting gives an error that names the value."""
    for key, value in {"schedule": "cosinus", "accumulate": 0, "ema": 1.0}.items():
        with pytest.raises(ValueError, match=str(value)):
            state_lib.OptimiserConfig(learning_rate=1e-3, warmup=1, steps=2, **{key: value})
