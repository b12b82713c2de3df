"""Stage `teacher`: discrete flow matching on the corpus, by the generalised KL or cross-entropy; or a teacher that is given."""

import functools

import jax

from tsdfm_jax.config import settings
from tsdfm_jax.data import windows
from tsdfm_jax.evaluation import elbo
from tsdfm_jax.exchange import external
from tsdfm_jax.flow import losses, path as paths
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import checkpoint, mesh as meshes, state as states
from tsdfm_jax.workspace import trained


def path_loss(apply, path, name, key, params, x_1_BL):
    """A path loss against data at stratified times, mean over positions, and its pieces."""
    time_key, path_key, dropout_key = jax.random.split(key, 3)
    longest = losses.LONGEST if name == "kl" else 1.0
    t_B = paths.stratified_times(time_key, x_1_BL.shape[0], longest)
    x_t_BL = paths.sample_xt(jax.random.split(path_key, x_1_BL.shape[0]), path, x_1_BL, t_B)
    logits_BLV = apply(params, x_t_BL, t_B, dropout_key=dropout_key)
    return losses.PATH_LOSSES[name](path, logits_BLV, x_1_BL, x_t_BL, t_B).mean(), {}


def run(config, workdir):
    """Leave `teacher/model`, its curve and its held-out bound."""
    with trained.job(config, workdir, "teacher") as job:
        if job.finished is not None:
            return
        data, tok, mesh = trained.require(config, workdir, "data"), trained.tokenizer(config, workdir), settings.mesh(config)
        path, c = settings.path(config, tok.vocab_size), config.teacher
        apply = trained.network(config, tok.vocab_size, mesh, step_conditioned=False).apply
        measure = elbo.bound(apply, path, mesh, windows.heldout(data, c.heldout), c.batch)
        bits = elbo.bits_per_byte(data)
        if c.path:
            params, figures = take(config, job, tok, mesh)
            return job.finish(figures | {"heldout_bits_per_byte": bits * measure(params)})
        batches = windows.batches(data, "train", c.batch, config.seed, meshes.share(mesh))
        last = {}  # the training's own last measurement, of the finished teacher; none where all its updates were done before

        def evaluate(state):
            last["heldout_bits_per_byte"] = bits * measure(state.averaged)
            return dict(last)

        learn = learner(config, tok.vocab_size, mesh)
        state, figures = trained.train(config, job, c, learn, batches, name="teacher", mesh=mesh, tok=tok, evaluate=evaluate)
        job.finish(figures | (last or evaluate(state)))


def take(config, job, tok, mesh):
    """The teacher of `teacher.path`, left in `model` as if it had been trained here: (params, figures)."""
    told, params = external.read(config, "teacher", tok, mesh)
    job.metrics.line(f"taking {told}")
    meta = checkpoint.save_params(job.directory / "model", params, {"tokenizer": tok.content_hash})
    return params, {"taken": external.figures(told), "parameters": transformer.parameters(params), "hash": meta["hash"]}


def learner(config, symbols, mesh):
    """A teacher in training over a text vocabulary of `symbols`; its batches are x_1_BL."""
    path = settings.path(config, symbols)
    cfg = settings.network(config, path.vocab)
    apply = lambda params, x_BL, t_B, dropout_key: transformer.apply(cfg, params, x_BL, t_B, None, dropout_key)
    loss = functools.partial(path_loss, apply, path, config.teacher.loss)
    init, start = lambda seed: transformer.init(jax.random.key(seed), cfg, config.data.length), (meshes.seed_word(config.seed),)
    return states.learner(init, loss, settings.optimiser(config.teacher), mesh, config.seed, given=start)
