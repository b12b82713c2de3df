"""Trajectory models that are linear, so that their law is Gaussian, and the one among them that is the law of given data.

Time runs from 0 = data to 1 = noise. The weights are tables with one entry a level. Two flow blocks, causal in the one and in the
other direction, make u of x; the predictor is affine. The images have N patches of one number.
"""

import jax.numpy as jnp
import numpy as np

from tests.laws.ntm import gaussian
from tsdfm_jax.ntm import likelihood, transporter


def tables(law, t_T, seed):
    """Weights with which the model is the law of trajectories of a Gaussian law of data; what may be any is drawn.

    The first flow block is any; the second takes the numbers of x_k given x_{k + 1} apart, so that the predictor's σ can be exact.
    """
    rng, n, steps = np.random.default_rng(seed), len(law.mean), len(t_T) - 1
    made = [{"weight": np.tril(rng.normal(size=(steps + 1, n, n)) / 2, -1), **drawn_scales(rng, steps + 1, n)} for _ in range(2)]
    joint, affine, predictor = gaussian.trajectory(law, t_T), [], {"gain": [], "offset": [], "log_scale": []}
    conditionals = [joint.conditional(gaussian.level(n, k), gaussian.level(n, k + 1)) for k in range(steps)]
    for k, (_, _, covariance) in enumerate(conditionals):
        first, _ = block_map(made[0], k)
        seen = (first @ covariance @ first.T)[::-1, ::-1]
        root = np.linalg.cholesky(seen)
        made[1]["weight"][k] = np.eye(n) - np.linalg.inv(root / np.diag(root))
        affine.append(transport_map(made, k))
    affine.append((np.eye(n), np.zeros(n)))  # noise stays as it is
    for k, (gain, offset, covariance) in enumerate(conditionals):
        (own, own_shift), (above, above_shift) = affine[k], affine[k + 1]
        predictor["gain"].append(own @ gain @ np.linalg.inv(above))
        predictor["offset"].append(own @ offset + own_shift - predictor["gain"][-1] @ above_shift)
        predictor["log_scale"].append(0.5 * np.log(np.diag(own @ covariance @ own.T)))
    return {"flows": made, "predictor": {name: np.array(value) for name, value in predictor.items()}}


def drawn_scales(rng, levels, n):
    """Means and scales, before the soft limit, of a flow block at every level."""
    return {"mean": rng.normal(size=(levels, n)), "raw": rng.normal(size=(levels, n)) / 2}


def block_map(block, k):
    """(matrix, offset) of u of one flow block at level k, in its own order."""
    scale = np.exp(transporter.LIMIT * np.tanh(block["raw"][k] / transporter.LIMIT))
    return (np.eye(len(scale)) - np.tril(block["weight"][k], -1)) / scale[:, None], -block["mean"][k] / scale


def transport_map(blocks, k):
    """(matrix, offset) of u = matrix · x + offset at level k."""
    (first, first_shift), (second, second_shift) = (block_map(block, k) for block in blocks)
    second, second_shift = second[::-1, ::-1], second_shift[::-1]
    return second @ first, second @ first_shift + second_shift


def law_of(weights, steps):
    """The law of the model's trajectories, in float64."""
    n = weights["predictor"]["offset"].shape[1]
    mean, noise = np.zeros((steps + 1, n)), np.zeros((steps + 1, n, (steps + 1) * n))
    noise[steps] = np.eye(n, (steps + 1) * n, steps * n)
    told_mean, told_noise = mean[steps], noise[steps]  # of u, one level above
    for k in range(steps)[::-1]:
        p = {name: value[k] for name, value in weights["predictor"].items()}
        u_mean = p["gain"] @ told_mean + p["offset"]
        u_noise = p["gain"] @ told_noise + np.exp(p["log_scale"])[:, None] * np.eye(n, (steps + 1) * n, k * n)
        matrix, shift = transport_map(weights["flows"], k)
        mean[k], noise[k] = np.linalg.solve(matrix, u_mean - shift), np.linalg.solve(matrix, u_noise)
        told_mean, told_noise = u_mean, u_noise
    root = noise.reshape((steps + 1) * n, -1)
    return gaussian.Law(mean.ravel(), root @ root.T)


def place(t_T, t_B):
    """The level of each time."""
    return jnp.argmin(jnp.abs(t_B[:, None] - jnp.asarray(t_T, jnp.float32)[None]), axis=1)


def network(t_T, n):
    """The transporter.Network of a flow block over n patches; its cache is what it has read."""

    def parallel(block, x_BNd, time_BM):
        k = place(t_T, time_BM[:, 0])
        mean_BN = jnp.einsum("bnm,bm->bn", jnp.tril(block["weight"], -1)[k], x_BNd[..., 0]) + block["mean"][k]
        return transporter.Affine(mean_BN[..., None], block["raw"][k][..., None])

    def step(block, cache_BN, previous_Bd, number, time_BM):
        k = place(t_T, time_BM[:, 0])
        cache_BN = jnp.where((jnp.arange(n) == number - 1)[None], previous_Bd, cache_BN)
        mean_B = jnp.einsum("bm,bm->b", block["weight"][k, number], cache_BN) + block["mean"][k, number]
        return transporter.Affine(mean_B[:, None], block["raw"][k, number][:, None]), cache_BN

    return transporter.Network(parallel=parallel, begin=lambda rows: jnp.zeros((rows, n)), step=step)


def model(t_T, n):
    """The likelihood.Model of such weights, for levels at these times and n patches."""
    flow = network(t_T, n)

    def told(t_B, pace_B):
        return jnp.stack([t_B, pace_B], axis=1)

    def predict(params, u_BNd, t_B, s_B, pace_B, condition):
        k, p = place(t_T, s_B), params["predictor"]
        mean_BN = jnp.einsum("bnm,bm->bn", p["gain"][k], u_BNd[..., 0]) + p["offset"][k]
        return mean_BN[..., None], p["log_scale"][k][..., None]

    return likelihood.Model(
        transport=lambda params, x, t, pace: transporter.forward(flow, params["flows"], x, told(t, pace)),
        invert=lambda params, u, t, pace: transporter.inverse(flow, params["flows"], u, told(t, pace)),
        predict=predict,
    )
