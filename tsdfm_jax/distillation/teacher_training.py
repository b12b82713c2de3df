"""Training of the teacher: discrete flow matching, by the generalised KL or cross-entropy."""

import functools

import jax

from tsdfm_jax.config import settings
from tsdfm_jax.flow import losses, path as paths
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import mesh as meshes, state as states


def path_loss(apply, path, name, key, params, x_1_BL):
    """The path loss `name` against data at stratified times, mean over positions, and an empty dict of parts."""
    time_key, path_key, dropout_key = jax.random.split(key, 3)
    longest = losses.LAST_TIME if name == "kl" else 1.0
    t_B = paths.stratified_times(time_key, x_1_BL.shape[0], longest)
    x_t_BL = paths.sample_xt(jax.random.split(path_key, x_1_BL.shape[0]), path, x_1_BL, t_B)
    logits_BLV = apply(params, x_t_BL, t_B, dropout_key=dropout_key)
    return losses.PATH_LOSSES[name](path, logits_BLV, x_1_BL, x_t_BL, t_B).mean(), {}


def learner(config, text_vocab, mesh):
    """The state.Learner of a teacher over a text vocabulary of `text_vocab` tokens; its batches are x_1_BL."""
    path = settings.path(config, text_vocab)
    cfg = settings.network(config, path.vocab)
    apply = lambda params, x_BL, t_B, dropout_key: transformer.apply(cfg, params, x_BL, t_B, None, dropout_key)
    loss = functools.partial(path_loss, apply, path, config.teacher.loss)
    init, seed_args = lambda seed: transformer.init(jax.random.key(seed), cfg, config.data.length), (meshes.seed_word(config.seed),)
    return states.learner(init, loss, settings.optimiser(config.teacher), mesh, config.seed, given=seed_args)
