"""What is said of a set of texts: perplexity under a judge, entropy, distinct-n, share of real words."""

import functools

import numpy as np

from tsdfm_jax import measures
from tsdfm_jax.data import windows
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import hosts, mesh as meshes


@functools.lru_cache(maxsize=None)
def program(cfg, bos, mesh):
    """The jitted `(params, x_BL) -> nll_BL` of a judge over a mesh."""
    split = meshes.batch_sharding(mesh)
    nll = lambda params, x_BL: causal.token_nll(cfg, params, x_BL, bos)
    return meshes.jit(mesh, nll, in_shardings=(None, split), out_shardings=split)


def perplexity(judge, bos, x_NL, batch, mesh):
    """Both formulas of a judge's perplexity (method: judging): `ppl_token` and `ppl_sample`.

    `judge` is (cfg, params, hash).
    """
    cfg, params, _ = judge
    nll_NL = []
    for first in range(0, len(x_NL), batch):
        part = x_NL[first : first + batch]
        padded = np.concatenate([part, np.zeros((batch - len(part), part.shape[1]), part.dtype)])
        nll_NL.append(hosts.gather(program(cfg, bos, mesh)(params, meshes.put_whole(mesh, padded)))[: len(part)])
    return measures.perplexity(np.concatenate(nll_NL))


def entropy_nats(x_NL):
    """Mean over texts of the entropy of each one's own histogram of symbols, in nats."""
    return float(measures.entropy_nats_N(x_NL).mean())


def text_scores(x_NL, tok, lexicon):
    """The scores that need no judge."""
    nats = entropy_nats(x_NL)
    shares = windows.lexical_share((tok.decode_pretty(x) for x in x_NL), lexicon)
    return {
        "entropy_nats": nats,
        "entropy_bits": nats / float(np.log(2)),
        "distinct_2": measures.distinct(x_NL, 2),
        "lexical": shares,
    }
