"""Model FLOPs of a config's programs: the FLOPs of their matrix products.

They follow from the config alone and do not depend on the compiler, so that utilisation can be measured against them.
"""

import functools
import math

ONCE_A_WINDOW = {"conditioning", "adaLN_modulation", "condition_fuser"}  # matrices applied to a window's time, not to its tokens


def kinds(config):
    """Kinds of record that the student's target needs."""
    from tsdfm_jax.config import settings

    return settings.TARGETS[config.student.target]


def forward(params, width, length):
    """FLOPs of one forward pass over one window: 2 for every weight of every matrix and position that it is applied to,
    and 4 L^2 D a block for attention's two products. Time conditioning and adaLN are applied once a window. Norms, softmax,
    activations and the embedding's look-up, which multiply no matrices, do not count."""
    import jax

    total, blocks = 0, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [key.key for key in path]
        if names[-1] == "kernel":
            total += 2 * math.prod(leaf.shape) * (1 if ONCE_A_WINDOW & set(names) else length)
        if names[-2:] == ["qw", "kernel"]:
            blocks = leaf.shape[0]
    return total + 4 * length**2 * width * blocks


def passes(config):
    """{program: {network: forward passes over its batch}}; a trained pass counts three times, because its gradient costs two.

    Rematerialisation does not count: it is no part of the model. In a whole trajectory only the midpoints from tau on are
    scored; in chains, which start at any time, all links count as scored.
    """
    from tsdfm_jax.flow import chain, lookahead, shaping

    s, links = config.shaping, len(chain.CHAINS[config.trajectories.chain].links)
    compares = s.candidates > 1 and s.selection != "random"
    scored_candidates = (s.candidates + (s.policy == "sequence_to_token")) if compares else 0
    halves = lookahead.hides(config.flow.source == "mask", config.compass.score)
    scorer, passes_each = ("teacher", 1 + halves) if config.compass.kind == "lookahead" else ("compass", 1)
    midpoints = config.trajectories.midpoints
    jumps, by_program = {"whole": midpoints, "chain": links}, {"teacher": {"teacher": 3}}
    scored = {"whole": sum(shaping.is_shaped((k + 1) / midpoints, s) for k in range(midpoints)), "chain": links}
    for kind in kinds(config):
        counts = {"teacher": jumps[kind], "compass": 0}
        counts[scorer] += scored[kind] * scored_candidates * passes_each
        by_program["trajectories" if len(kinds(config)) == 1 else f"trajectories/{kind}"] = counts
    by_program["student"] = {"student": 3 * (len(kinds(config)) + (config.student.target == "mixed")), "teacher": 0}
    if "chain" in kinds(config):
        by_program["student"]["student" if config.student.evaluator == "ema" else "teacher"] += links + 1
    return by_program


def window(config, text_vocab, name):
    """FLOPs of one forward pass over one window of the teacher, the student or the compass's light network."""
    from tsdfm_jax.config import settings
    from tsdfm_jax.models import energy, transformer

    vocab = settings.path(config, text_vocab).vocab
    if name == "compass":
        return _network(energy.init, settings.compass_network(config, vocab), config.data.length)
    return _network(transformer.init, settings.network(config, vocab, step_conditioned=name == "student"), config.data.length)


@functools.cache
def _network(init, cfg, length):
    import jax

    from tsdfm_jax.runtime import mesh as meshes

    return forward(meshes.unbox(jax.eval_shape(lambda: init(jax.random.key(0), cfg, length))), cfg.width, length)


def program(config, text_vocab, name):
    """Model FLOPs of one run of a program, over all devices."""
    total = sum(n * window(config, text_vocab, network) for network, n in passes(config)[name].items() if n)
    return config[name.split("/")[0]].batch * total
