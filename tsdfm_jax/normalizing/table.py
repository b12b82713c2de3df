"""The rows of an evaluation's table: which images are drawn, in which order. Time runs from 0 = data to 1 = noise."""

import dataclasses

from tsdfm_jax.config import ntm_networks
from tsdfm_jax.normalizing import sampling
from tsdfm_jax.ntm import chain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: images of one request and one seed."""

    request: sampling.Request
    seed: int

    @property
    def name(self):
        """The name of its files."""
        one = self.request
        return f"{one.model}_{one.steps}_{one.guidance:g}_{one.ending}_{self.seed}"

    @property
    def networks(self):
        """The artefacts that it is drawn with."""
        model = "flow_matching" if self.request.model == "start" else self.request.model
        return (model, "denoiser") if self.request.ending == "learned" else (model,)


def request(config, model, steps, guidance=0.0, ending="noisy"):
    """A Request with the levels of a config."""
    levels = dict(level=config.ntm.t_sample, shift=config.ntm.shift, clip=config.denoiser.clip)
    return sampling.Request(model=model, steps=steps, guidance=guidance, ending=ending, **levels)


def rows(config):
    """All rows, each once: flow matching, its untrained start, and the trajectory models with each ending."""
    c, models = config.evaluate, ntm_networks.models(config)
    found = []
    for seed in c.seeds:
        for guidance in c.guidance:
            for model, steps, ending in _models(config, models):
                found.append(Row(request=request(config, model, steps, guidance, ending), seed=seed))
    return list(dict.fromkeys(found))


def _models(config, models):
    """Yield each (model, steps, ending)."""
    c, ends = config.evaluate, ["noisy", *(["noise_free"] if config.evaluate.noise_free else [])]
    if "flow_matching" in models:
        yield from (("flow_matching", steps, "noisy") for steps in (*c.steps, *c.flow_matching_steps))
        yield from (("start", steps, end) for steps in c.steps if _fits(config, steps) for end in ends)
    for model in ntm_networks.normalizing(config):
        endings = ends + (["score"] if model == "ntm" else []) + (["learned"] if model == "ntm" and "denoiser" in models else [])
        yield from ((model, steps, end) for steps in config.ntm.steps for end in endings)


def _fits(config, steps):
    """Whether a trajectory of so many steps has its first level above the one that it ends at."""
    return chain.levels(steps, config.ntm.shift)[0] > config.ntm.t_sample
