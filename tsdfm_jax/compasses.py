"""The three kinds of compass behind one interface: weights and a posterior in, `energy(x_BL, t_B)` out."""

from tsdfm_jax import settings
from tsdfm_jax.flow import lookahead
from tsdfm_jax.models import energy


def make(config, path):
    """`build(params, posterior, h_B) -> energy(x_BL, t_B) -> (energy_B, score_BL)` of the config's kind.

    `params` are a trained compass's weights (None for a look-ahead), `posterior` the generator's, and h_B the step size
    that it is told.
    """
    return KINDS[config.compass.kind](config, path)


def _lookahead(config, path):
    def build(params, posterior, h_B):
        del params
        return lambda x_BL, t_B: lookahead.lookahead(path, posterior, x_BL, t_B, h_B, config.compass.score)

    return build


def _network(config, path):
    cfg = settings.compass_network(config, path.vocab)

    def build(params, posterior, h_B):
        del posterior, h_B
        return lambda x_BL, t_B: energy.apply(cfg, params, x_BL, t_B)

    return build


KINDS = {"nce": _network, "distilled": _network, "lookahead": _lookahead}
