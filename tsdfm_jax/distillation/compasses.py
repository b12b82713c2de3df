"""The three kinds of compass behind one interface: weights and a posterior in, `energy(x_BL, t_B)` out."""

from tsdfm_jax.config import settings
from tsdfm_jax.flow import lookahead
from tsdfm_jax.models import energy


def make(config, path):
    """`build(params, posterior, h_B) -> energy(x_BL, t_B) -> (energy_B, score_BL)` of the config's kind.

    `params` are a trained compass's weights (None for a look-ahead), `posterior` is the generator's, and h_B the step size
    that the posterior is given.
    """
    return KINDS[config.compass.kind](config, path)


def prior(config, path, posterior, h_B):
    """`compass.prior` times the tokens' log frequencies, as a look-ahead adds them; None if `compass.prior` is 0."""
    if not config.compass.prior:
        return None
    return config.compass.prior * lookahead.log_prior(path, posterior, config.data.length, h_B[0])


def _lookahead(config, path):
    def build(params, posterior, h_B):
        del params
        prior_V = prior(config, path, posterior, h_B)
        return lambda x_BL, t_B: lookahead.lookahead(path, posterior, x_BL, t_B, h_B, config.compass.score, prior_V)

    return build


def _network(config, path):
    cfg = settings.compass_network(config, path.vocab)

    def build(params, posterior, h_B):
        del posterior, h_B
        return lambda x_BL, t_B: energy.apply(cfg, params, x_BL, t_B)

    return build


KINDS = {"nce": _network, "distilled": _network, "lookahead": _lookahead}
