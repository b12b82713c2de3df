"""Training of a light compass: generation-aware noise contrast, or distillation of a look-ahead."""

import functools

import jax
import jax.numpy as jnp

from tsdfm_jax.config import settings
from tsdfm_jax.distillation import compasses
from tsdfm_jax.flow import chain, lookahead, losses, path as paths
from tsdfm_jax.models import energy as energies
from tsdfm_jax.runtime import mesh as meshes, state as states


def pairs(config, path, teacher, params, key_B, x_1_BL, t_B, h_B):
    """The compass's pairs at each depth of the teacher's own chain: (negative_BSL, positive_BSL, left_BSL, time_BS)."""
    path_B, chain_B = paths.split(key_B)
    x_t_BL = paths.sample_xt(path_B, path, x_1_BL, t_B)
    posterior = lambda x_BL, t_B, h_B: teacher(params, x_BL, t_B, h_B)
    name = config.trajectories.chain
    blind_pairs = chain.blind_pairs(chain_B, path, config.flow.jump, name, posterior, x_t_BL, x_1_BL, t_B, h_B)
    return *blind_pairs, chain.times(name, t_B, h_B)[:, 1:]


def draw_pair(key, config, path, teacher, teacher_params, x_1_BL):
    """One pair for each text, at a random depth, h drawn by `compass.step_weights`: negative, positive, left, time, h."""
    size_key, time_key, depth_key, chain_key = jax.random.split(key, 4)
    b = x_1_BL.shape[0]
    prefix = jnp.cumsum(jnp.array(config.compass.step_weights) / sum(config.compass.step_weights))
    size_index_B = (jax.random.uniform(size_key, (b, 1)) >= prefix[None, :-1]).sum(axis=1)
    h_B = jnp.array(settings.STEP_SIZES)[size_index_B]
    t_B = paths.stratified_times(time_key, b) * (1.0 - h_B)
    all_depths = pairs(config, path, teacher, teacher_params, jax.random.split(chain_key, b), x_1_BL, t_B, h_B)
    depth_B = jax.random.randint(depth_key, (b,), 0, all_depths[0].shape[1])
    at_depth = lambda a_BS: jax.vmap(lambda a_S, i: a_S[i])(a_BS, depth_B)
    return *(at_depth(a) for a in all_depths), h_B


def nce_loss(config, path, cfg, teacher, key, params, x_1_BL, teacher_params):
    """Generation-aware noise contrast, on sequences and on the positions that jumped.

    Pairs of two equal texts count too: without them the optimum is more extreme than the ratio of the two distributions.
    """
    return counted_nce(config, path, cfg, teacher)(key, params, x_1_BL, teacher_params)


def counted_nce(config, path, cfg, teacher):
    """`nce_loss` as a state.Counted: the positions that jumped are counted over all microbatches together."""
    prepare = lambda key, x_1_BL, teacher_params: draw_pair(key, config, path, teacher, teacher_params, x_1_BL)[:4]
    return states.Counted(prepare=prepare, count=lambda pair: pair[2].sum(), loss=functools.partial(pair_loss, cfg))


def pair_loss(cfg, params, pair, jumped):
    """The noise-contrastive loss of pairs, of which `jumped` positions jumped, and its two parts."""
    negative_BL, positive_BL, left_BL, time_B = pair
    negative_energy_B, negative_score_BL = energies.apply(cfg, params, negative_BL, time_B)
    positive_energy_B, positive_score_BL = energies.apply(cfg, params, positive_BL, time_B)
    token = (losses.nce(positive_score_BL, negative_score_BL) * left_BL).sum() / jumped
    sequence = losses.nce(positive_energy_B, negative_energy_B).mean()
    return sequence + token, {"loss_sequence": sequence, "loss_token": token}


def distilled_loss(config, path, cfg, teacher, key, params, x_1_BL, teacher_params):
    """Squared error of the light network's scores and energy against the look-ahead's, at the chain's own midpoints. [D]"""
    negative_BL, _, _, time_B, h_B = draw_pair(key, config, path, teacher, teacher_params, x_1_BL)
    posterior = lambda x_BL, t_B, h_B: teacher(teacher_params, x_BL, t_B, h_B)
    prior_V = compasses.prior(config, path, posterior, h_B / 2)
    target_B, target_BL = lookahead.lookahead(path, posterior, negative_BL, time_B, h_B / 2, config.compass.score, prior_V)
    energy_B, score_BL = energies.apply(cfg, params, negative_BL, time_B)
    token = jnp.square(score_BL - target_BL).mean()
    sequence = jnp.square(energy_B - target_B).mean() * score_BL.shape[1]
    return sequence + token, {"loss_sequence": sequence, "loss_token": token}


LOSSES = {"nce": nce_loss, "distilled": distilled_loss}
COUNTED = {"nce": counted_nce}  # losses that are not a mean over the batch alone, for microbatches


def learner(config, text_vocab, mesh, teacher):
    """The state.Learner of a compass against the chain of `teacher`, a trained.Network; its batches are x_1_BL."""
    c, path = config.compass, settings.path(config, text_vocab)
    cfg = settings.compass_network(config, path.vocab)

    def init(seed, teacher):
        params = energies.init(jax.random.key(seed), cfg, config.data.length)
        return energies.overlay(params, teacher) if c.from_teacher else params

    context = (config, path, cfg, teacher.apply)
    loss = COUNTED[c.kind](*context) if c.kind in COUNTED else functools.partial(LOSSES[c.kind], *context)
    seed = config.seed + 3000
    options = dict(given=(meshes.seed_word(seed), teacher.params), frozen=teacher.params)
    return states.learner(init, loss, settings.optimiser(c), mesh, seed, **options)
