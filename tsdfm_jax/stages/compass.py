"""Stage `compass`: trains the energy model if its kind is trained, and measures its accuracy and its effect on sampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from tsdfm_jax.config import settings
from tsdfm_jax.data import windows
from tsdfm_jax.distillation import compass_training, compasses
from tsdfm_jax.evaluation import judging, text_metrics
from tsdfm_jax.flow import chain, lookahead, path as paths, sampler
from tsdfm_jax.runtime import hosts, mesh as meshes, metrics as metrics_lib, signals
from tsdfm_jax.workspace import description, jobs, trained

TIME_BINS = 4


def run(config, workdir, remake=False):
    """Write `compass/model` (if the kind is trained) and its metrics: accuracy, AUC, correlation, and the steered table."""
    with jobs.job(config, workdir, "compass", remake) as job:
        if job.finished is not None:
            return
        mesh, path = settings.mesh(config), trained.flow_path(config, workdir)
        teacher = trained.teacher(config, workdir, mesh)
        figures, params = {}, None
        if config.compass.kind != "lookahead":
            params, figures = train(config, workdir, job, mesh, teacher)
        with signals.stopping():
            figures |= evaluate_pairs(config, workdir, job, mesh, path, teacher, params)
            figures["steered"] = steered_table(config, workdir, job, mesh, path, teacher, params)
        job.finish({"kind": config.compass.kind, **figures})


def train(config, workdir, job, mesh, teacher):
    """Train the light network of `nce` or `distilled`: (weights, metrics)."""
    data, tok = jobs.require(config, workdir, "data"), trained.tokenizer(config, workdir)
    batches = windows.batches(data, "train", config.compass.batch, config.seed + 3000, meshes.share(mesh))
    learn = compass_training.learner(config, tok.vocab_size, mesh, teacher)
    path = settings.path(config, tok.vocab_size)
    about = description.of_flow(settings.compass_network(config, path.vocab), config.data.length, path)
    options = dict(mesh=mesh, rows=jobs.text(config, tok), about=about)
    state, figures = jobs.train(config, job, config.compass, learn, batches, name="compass", **options)
    return state.averaged, figures


def evaluate_pairs(config, workdir, job, mesh, path, teacher, params):
    """How well the compass tells the chain's midpoints from the data's, on held-out text, by time, step size and depth.

    `accuracy`: share of the pairs (same start, same positions that jump) in which the data's midpoint has the lower energy;
    a tie counts half. `auc`: the same over all pairs of a bin, matched or not. A distilled compass also gets its
    `correlation` with the look-ahead.
    """
    c, build = config.compass, compasses.make(config, path)
    x_1_NL = windows.heldout(jobs.require(config, workdir, "data"), c.heldout)

    def measure(seed, weights, indices, x_1_BL, h):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), indices[0]), indices[1])
        h_B = jnp.full(x_1_BL.shape[:1], h)
        time_key, chain_key = jax.random.split(key)
        t_B = paths.stratified_times(time_key, x_1_BL.shape[0]) * (1.0 - h_B)
        pairs = compass_training.pairs(
            config, path, teacher.apply, weights["teacher"], jax.random.split(chain_key, len(x_1_BL)), x_1_BL, t_B, h_B
        )
        posterior = lambda x_BL, t_B, h_B: teacher.apply(weights["teacher"], x_BL, t_B, h_B)
        energy = jax.vmap(lambda x_BL, t_B: build(weights["compass"], posterior, h_B / 2)(x_BL, t_B)[0], in_axes=1, out_axes=1)
        prior_V = compasses.prior(config, path, posterior, h_B / 2)
        lookahead_of = lambda x_BL, t_B: lookahead.lookahead(path, posterior, x_BL, t_B, h_B / 2, c.score, prior_V)[0]
        all_lookaheads = jax.vmap(lookahead_of, in_axes=1, out_axes=1)
        reference = all_lookaheads(pairs[0], pairs[3]) if c.kind == "distilled" else jnp.zeros_like(pairs[3])
        return energy(pairs[1], pairs[3]), energy(pairs[0], pairs[3]), pairs[3], reference

    shardings = dict(in_shardings=(None, None, meshes.batch_sharding(mesh), None), out_shardings=meshes.batch_sharding(mesh))
    jitted, rows = meshes.seeded(mesh, measure, config.seed + 4000, **shardings), []
    for k, h in enumerate(settings.STEP_SIZES):
        for i in range(0, len(x_1_NL), c.batch):
            if signals.stop_agreed():
                raise signals.Interrupted("compass: stopped; the same command goes on from there")
            at_B = np.minimum(np.arange(i, i + c.batch), len(x_1_NL) - 1)  # the last window fills up the last batch
            x_1_BL = meshes.put_whole(mesh, x_1_NL[at_B])
            arrays = hosts.gather(jitted({"teacher": teacher.params, "compass": params}, np.int32([k, i]), x_1_BL, np.float32(h)))
            arrays = [array[: len(x_1_NL) - i] for array in arrays]
            depth = np.broadcast_to(np.arange(arrays[0].shape[1]), arrays[0].shape)
            rows.append(np.stack([*arrays, depth, np.full(arrays[0].shape, h)], axis=-1).reshape(-1, 6))
    return summary(np.concatenate(rows), c, job)


def summary(rows, c, job):
    """Accuracy, AUC and correlation of all pairs, and by bin. Columns of `rows`: E+, E-, time, look-ahead, depth, h.

    Pairs with a step size of weight 0 count only in their own bin of `by_step_size`.
    """
    weights = dict(zip(settings.STEP_SIZES, c.step_weights))
    used = rows[[weights[h] > 0 for h in rows[:, 5]]]
    by_time = [
        (f"{i / TIME_BINS:g}-{(i + 1) / TIME_BINS:g}", used[np.minimum((used[:, 2] * TIME_BINS).astype(int), TIME_BINS - 1) == i])
        for i in range(TIME_BINS)
    ]
    by_step = [(h, rows[rows[:, 5] == h]) for h in settings.STEP_SIZES]
    by_depth = [(int(d) + 1, used[used[:, 4] == d]) for d in np.unique(used[:, 4])]
    figures = pair_metrics(used, c)
    figures |= {"by_time": [{"time": k, **pair_metrics(r, c)} for k, r in by_time if len(r)]}
    figures |= {
        "by_step_size": [{"h": k, **pair_metrics(r, c)} for k, r in by_step],
        "by_depth": [{"depth": k, **pair_metrics(r, c)} for k, r in by_depth],
    }
    job.metrics.line(f"{c.kind}: held-out accuracy {figures['accuracy']:.3f}, AUC {figures['auc']:.3f}")
    if figures["auc"] < 0.52:
        job.metrics.line(f"this compass is near blind (AUC {figures['auc']:.3f}): do not expect it to steer")
    return figures


def pair_metrics(rows, c):
    """Accuracy and AUC of some pairs; correlation too for a distilled compass."""
    positive, negative = rows[:, 0], rows[:, 1]
    figures = {"pairs": len(rows), "accuracy": float((positive < negative).mean() + 0.5 * (positive == negative).mean())}
    ranks = scipy.stats.rankdata(np.concatenate([negative, positive]))[: len(negative)]
    figures["auc"] = float((ranks.sum() - len(negative) * (len(negative) + 1) / 2) / (len(negative) * len(positive)))
    if c.kind == "distilled":
        figures["correlation"] = correlation(negative, rows[:, 3])
    return figures


def correlation(a_N, b_N):
    """Pearson's correlation; None where one of the arrays is constant."""
    if min(np.ptp(a_N), np.ptp(b_N)) == 0:
        return None
    found = float(np.corrcoef(a_N, b_N)[0, 1])
    return found if np.isfinite(found) else None


def steered_table(config, workdir, job, mesh, path, teacher, params):
    """Compare the teacher steered by the compass with blind, random-of-K and worst-of-K sampling, by the pilot judge."""
    c = config.compass
    pilot, build = judging.trained_judge(config, workdir, mesh, "pilot"), compasses.make(config, path)
    kinds = {"blind": {"candidates": 1}, "random": {"selection": "random"}, "worst": {"selection": "worst"}, "shaped": {}}
    rows, weights = [], {"teacher": teacher.params, "compass": params}
    with metrics_lib.progress("steered", len(kinds) * c.steered_samples, "text") as bar:
        for name, overrides in kinds.items():
            texts = []
            make = functools.partial(steer, config, path, teacher.apply, build, settings.shaped(config, **overrides))
            shardings = dict(in_shardings=(None, None), out_shardings=meshes.batch_sharding(mesh))
            jitted = meshes.seeded(mesh, make, config.seed + 5000, **shardings)
            for first in range(0, c.steered_samples, c.batch):
                if signals.stop_agreed():
                    raise signals.Interrupted("compass: stopped; the same command goes on from there")
                texts.append(hosts.gather(jitted(weights, np.int32(first))))
                bar.advance(min(c.batch, c.steered_samples - first))
            x_NL = np.concatenate(texts)[: c.steered_samples]
            scores = judging.perplexity(pilot, x_NL, c.batch, mesh) | {
                "entropy_nats": float(text_metrics.entropy_nats_N(x_NL).mean())
            }
            rows.append({"selection": name, "steps": c.steered_steps, "samples": len(x_NL), **scores})
            job.metrics.line(
                f"teacher at {c.steered_steps} steps, {name}: perplexity {scores['ppl_token']:.1f}, entropy {scores['entropy_nats']:.2f} nats (pilot judge)"
            )
    blind_perplexity, shaped_perplexity = rows[0]["ppl_token"], rows[-1]["ppl_token"]
    if shaped_perplexity >= blind_perplexity and config.shaping.candidates > 1:
        job.metrics.line(
            f"this compass does not lower the steered teacher's perplexity ({blind_perplexity:.1f} blind, {shaped_perplexity:.1f} steered)"
        )
    return rows


def steer(config, path, teacher, build, shaping_cfg, seed, weights, first):
    """Texts `first`, `first` + 1, … of the teacher in `steered_steps` steps, each jump chosen as `shaping_cfg` says."""
    key_B = sampler.sample_keys(seed, first, config.compass.batch)
    source_B, jumps_B = paths.split(key_B)
    steps = config.compass.steered_steps
    posterior = lambda x_BL, t_B, h_B: teacher(weights["teacher"], x_BL, t_B, h_B)
    energy = build(weights["compass"], posterior, jnp.full(key_B.shape, 1.0 / steps))
    x_0_BL = paths.sample_source(source_B, path, config.data.length)
    return chain.trajectory(jumps_B, path, config.flow.jump, posterior, x_0_BL, steps, energy, shaping_cfg).state_BSL[:, -1]
