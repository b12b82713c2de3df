"""Training of a causal transformer on the corpus: judges and the autoregressive model."""

import jax

from tsdfm_jax.config import settings
from tsdfm_jax.data import windows
from tsdfm_jax.evaluation import judging
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import mesh as meshes, state as states
from tsdfm_jax.workspace import description, jobs, trained


def train(config, workdir, job, section, cfg, seed, name, directory):
    """Train a network of shape `cfg` from scratch, into `directory`/model; returns its metrics with held-out perplexity.

    `section` has its batch and optimiser. `seed` sets the initial weights and the data order.
    """
    data, tok, mesh = jobs.require(config, workdir, "data"), trained.tokenizer(config, workdir), settings.mesh(config)
    loss = lambda key, params, x_BL: (causal.token_nll(cfg, params, x_BL, tok.eos_id, key).mean(), {})
    heldout_NL = windows.heldout(data, config.teacher.heldout)
    init, start = lambda seed: causal.init(jax.random.key(seed), cfg), (meshes.seed_word(seed),)
    learner = states.learner(init, loss, settings.optimiser(section), mesh, seed, given=start)
    batches = windows.batches(data, "train", section.batch, seed, meshes.share(mesh))
    options = dict(mesh=mesh, rows=jobs.text(config, tok), about=description.of_causal(cfg), directory=directory)
    state, figures = jobs.train(config, job, section, learner, batches, name=name, **options)
    heldout = judging.perplexity(judging.local_judge("", cfg, state.averaged, tok), heldout_NL, section.batch, mesh)["ppl_token"]
    job.metrics.line(f"{name}: {figures['parameters']:,} parameters, held-out perplexity {heldout:.1f}")
    return figures | {"heldout_perplexity": heldout}
