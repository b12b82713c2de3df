"""The transporter is a bijection whose determinant is as stated. Time runs from 0 = data to 1 = noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.ntm import small
from tsdfm_jax.normalizing import networks
from tsdfm_jax.ntm import likelihood, transporter

N, D = small.SHAPE.row
ROWS = 5


def case(**changes):
    """(network, weights of each flow block, x_BNd, times [B, 2])."""
    c = small.config(**changes)
    params = networks.weights_of_flows(small.weights(c, small.SHAPE))
    return networks.causal(networks.flow(c, small.SHAPE)), params, small.normal(1, ROWS, N, D), small.uniform(2, ROWS, 2)


CASES = [
    {"transporter.map": "elementwise"},
    {"transporter.map": "triangular", "model.kv_heads": 1, "transporter.blocks": 2},
]


def without_cache(network, params, u_BNd, time_BM):
    """The inverse by the parallel network alone: after N rounds every patch stands on patches that are right."""
    for number, weights in reversed(list(enumerate(params))):
        u_BNd = transporter.turned(u_BNd, number)

        def step(x_BNd, _):
            return transporter.undo(network.parallel(weights, x_BNd, time_BM), u_BNd), None

        u_BNd = transporter.turned(jax.lax.scan(step, jnp.zeros_like(u_BNd), None, length=u_BNd.shape[1])[0], number)
    return u_BNd


@pytest.mark.parametrize("changes", CASES)
def test_inverse(changes, figures):
    """inverse(forward) = id and forward(inverse) = id to 1e-4 in float32, with the cache and without; u is far from x."""
    network, params, x_BNd, time_BM = case(**changes)
    forward = jax.jit(lambda x: transporter.forward(network, params, x, time_BM)[0])
    u_BNd = forward(x_BNd)
    assert small.off(u_BNd, x_BNd) > 1.0 and len(params) == len({id(p) for p in params}) > 1
    cached = jax.jit(lambda u: transporter.inverse(network, params, u, time_BM))
    found = {
        "with a cache": small.off(cached(u_BNd), x_BNd),
        "without": small.off(jax.jit(lambda u: without_cache(network, params, u, time_BM))(u_BNd), x_BNd),
        "forward of the inverse": small.off(forward(cached(x_BNd)), x_BNd),
    }
    assert max(found.values()) < 1e-4, found
    row = figures.setdefault("ntm", {}).setdefault("inverse", {})
    row.update({name: max(value, row.get(name, 0.0)) for name, value in found.items()})


@pytest.mark.parametrize("changes", CASES[1:])
def test_cached_step_is_the_parallel_output(changes):
    """At every place the cached step gives the parallel network's map."""
    network, (params, *_), x_BNd, time_BM = case(**changes)
    whole = jax.jit(network.parallel)(params, x_BNd, time_BM)
    assert (whole.mix is not None) == (changes["transporter.map"] == "triangular")
    cache, previous_Bd, step = network.begin(ROWS), jnp.full((ROWS, D), jnp.nan), jax.jit(network.step)
    for place in range(N):
        affine, cache = step(params, cache, previous_Bd, place, time_BM)
        for found, wanted in zip(jax.tree.leaves(affine), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(found, wanted[:, place], atol=2e-5, err_msg=f"place {place}")
        previous_Bd = x_BNd[:, place]


@pytest.mark.parametrize("changes", CASES)
def test_log_determinant(changes, figures):
    """Σ log σ is minus the log-determinant of the Jacobian by autodiff, to 1e-4 nats; the determinant is positive."""
    network, params, x_BNd, time_BM = case(**changes)

    def one(x_Nd, time_M):
        return transporter.forward(network, params, x_Nd[None], time_M[None])[0].ravel()

    jacobian = jax.jit(jax.vmap(jax.jacfwd(one)))(x_BNd, time_BM)
    sign_B, log_det_B = np.linalg.slogdet(np.asarray(jacobian, np.float64).reshape(ROWS, N * D, N * D))
    _, log_scale_B = jax.jit(lambda x: transporter.forward(network, params, x, time_BM))(x_BNd)
    gap = small.off(log_scale_B, -log_det_B)
    assert (sign_B == 1).all() and np.ptp(log_det_B) > 0.1 and gap < 1e-4
    row = figures.setdefault("ntm", {}).setdefault("log_determinant", {"nats_off": 0.0})
    row["nats_off"] = max(row["nats_off"], gap)


@pytest.mark.parametrize("number, changes", enumerate(CASES))
def test_a_block_is_blind_to_its_own_patch_and_to_those_after(number, changes):
    """The map of patch n has gradients of zero in patches n and after, in the block's own direction, and none of zero before.

    Within a patch u's numbers depend on x's one by one, or with a triangular map on those up to their own.
    """
    network, params, x_BNd, time_BM = case(**changes)

    flow = params[number]
    plain = network.parallel  # no weights make a block that does nothing, before the one in question
    network = network._replace(parallel=lambda w, x, time: plain(w, x, time) if w else transporter.Affine(0 * x, 0 * x))

    def maps(x_Nd):
        affine = network.parallel(flow, transporter.turned(x_Nd[None], number), time_BM[:1])
        moved_1Nd, _ = transporter.forward(network, [{}] * number + [flow], x_Nd[None], time_BM[:1])
        return jnp.concatenate([transporter.turned(out, number)[0] for out in jax.tree.leaves(affine)], axis=1), moved_1Nd[0]

    of_map, moved = (np.asarray(slope) for slope in jax.jit(jax.jacfwd(maps))(x_BNd[0]))
    size_NN, moved_NNdd = np.abs(of_map).max(axis=(1, 3)), moved.swapaxes(1, 2)
    before_NN = np.tril(np.ones((N, N), bool), -1)
    before_NN = before_NN.T if number else before_NN
    assert (size_NN[~before_NN] == 0.0).all() and (size_NN[before_NN] > 1e-6).all(), size_NN
    own_Ndd, reached_dd = moved_NNdd[range(N), range(N)], np.eye(D, dtype=bool)
    assert (moved_NNdd[~(before_NN | np.eye(N, dtype=bool))] == 0.0).all() and (own_Ndd[:, reached_dd] > 0.0).all()
    if changes["transporter.map"] == "triangular":
        reached_dd = np.tril(np.ones((D, D), bool))
        assert (own_Ndd[:, reached_dd] != 0.0).all()
    assert (own_Ndd[:, ~reached_dd] == 0.0).all()


def test_two_directions_reach_every_patch():
    """With two blocks every patch of u depends on every patch of x."""
    network, params, x_BNd, time_BM = case()
    moved = lambda x_Nd: transporter.forward(network, params, x_Nd[None], time_BM[:1])[0][0]
    assert (np.abs(np.asarray(jax.jit(jax.jacfwd(moved))(x_BNd[0]))).max(axis=(1, 3)) > 0.0).all()


def test_no_block_is_the_identity():
    """Without flow blocks u is x to the bit and the log-determinant is zero."""
    network, _, x_BNd, time_BM = case()
    u_BNd, log_scale_B = transporter.forward(network, [], x_BNd, time_BM)
    np.testing.assert_array_equal(u_BNd, x_BNd)
    np.testing.assert_array_equal(transporter.inverse(network, [], u_BNd, time_BM), x_BNd)
    assert not np.asarray(log_scale_B).any()


def grid(low_P, high_P, points):
    """(points [R, P], the weight of each) of the trapezoid rule: on a density that is smooth and small at the edge it is exact."""
    axes = [np.linspace(low, high, points) for low, high in zip(low_P, high_P)]
    weight = np.prod([axis[1] - axis[0] for axis in axes])
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)), weight


def integral(nll, x_RP, points):
    """∫ exp(-nll) over the box around some rows of x."""
    where_RP, weight = grid(x_RP.min(axis=0), x_RP.max(axis=0), points)
    return float(np.exp(-np.asarray(jax.jit(nll)(jnp.asarray(where_RP, jnp.float32)), np.float64)).sum() * weight)


def wide(seed, *shape):
    """Numbers in whose box all but 1e-9 of a normal law lies, so that its image by a smooth map is the integral's box."""
    return (
        jnp.clip(1.8 * small.normal(seed, *shape), -6.2, 6.2)
        .at[:2]
        .set(jnp.asarray([-6.2, 6.2]).reshape(2, *[1] * (len(shape) - 1)))
    )


@pytest.mark.parametrize("image, flows", [((1, 2, 1), 2), ((1, 1, 2), 1)])
def test_density_of_a_step_integrates_to_one(image, flows, figures):
    """p(x_s | x_t) of random transporter and predictor is a density: its integral over x_s is 1 within 1e-3.

    Over two patches (of which the second depends on the first, and the first on the second in the other direction), and over one
    patch of two numbers, by a triangular map.
    """
    c, shape = (
        small.config(**{"transporter.map": "triangular", "transporter.flows": flows}),
        networks.Shape(image=image, patch=1, classes=3),
    )
    params, model = small.weights(c, shape, seed=3), networks.trajectory_model(c, shape)
    times, pace_1, above_1Nd = (jnp.full(1, 0.6), jnp.full(1, 0.3)), jnp.full(1, 0.25), small.normal(5, 1, *shape.row)
    condition = networks.Condition(jnp.asarray([1]), jnp.asarray([True]))

    def nll(x_RP):
        rows = len(x_RP)
        xs_R2Nd = jnp.stack([x_RP.reshape(rows, *shape.row), jnp.repeat(above_1Nd, rows, axis=0)], axis=1)
        t_R2, pace_R, told = likelihood.repeated((jnp.stack(times[::-1], axis=1), pace_1, condition), rows)
        return likelihood.step_nll(model, params, xs_R2Nd, t_R2, pace_R, told)[0][:, 0]

    def reached(z_RNd):
        u_1Nd, _ = model.transport(params, above_1Nd, times[0], pace_1)
        mean, log_scale = model.predict(params, u_1Nd, *times, pace_1, condition)
        return model.invert(params, mean + jnp.exp(log_scale) * z_RNd, *likelihood.repeated((times[1], pace_1), len(z_RNd)))

    x_RP = np.asarray(jax.jit(reached)(wide(6, 1024, *shape.row))).reshape(1024, -1)
    total = integral(nll, x_RP, 96)
    assert abs(total - 1.0) < 1e-3, total
    figures.setdefault("ntm", {}).setdefault("integrals", {})[f"step, {shape.row[0]} × {shape.row[1]}"] = total


def test_density_of_a_trajectory_integrates_to_one(figures):
    """p(x_0, x_1) of one number and one step is a density over both levels: 1 within 1e-3."""
    c, shape = small.config(), networks.Shape(image=(1, 1, 1), patch=1)
    params, model = small.weights(c, shape, seed=3), networks.trajectory_model(c, shape)
    t_2 = jnp.asarray([0.3, 1.0], jnp.float32)

    def nll(xs_R2):
        t_R2 = jnp.broadcast_to(t_2[None], xs_R2.shape)
        return likelihood.trajectory_nll(model, params, xs_R2[..., None, None], t_R2, None).sum(axis=1)

    def reached(z_R2):
        rows = len(z_R2)
        one_R, s_R = jnp.ones(rows), jnp.full(rows, t_2[0])
        mean, log_scale = model.predict(params, z_R2[:, :1, None], one_R, s_R, one_R, None)
        x_R11 = model.invert(params, mean + jnp.exp(log_scale) * z_R2[:, 1:, None], s_R, one_R)
        return jnp.concatenate([x_R11[..., 0], z_R2[:, :1]], axis=1)

    total = integral(nll, np.asarray(jax.jit(reached)(wide(6, 1024, 2))), 128)
    assert abs(total - 1.0) < 1e-3, total
    figures.setdefault("ntm", {}).setdefault("integrals", {})["trajectory of one step, 1 × 1"] = total
