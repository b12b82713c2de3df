"""Stage `judges`: causal transformers of increasing size, trained on the training split alone, and a pilot.

The pilot is a further network that the compass's own table is read by, so that no choice is made by a judge of the report.
"""

import jax
import numpy as np

from tsdfm_jax import settings, workspace
from tsdfm_jax.data import windows
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import state as states


def run(config, workdir):
    """Leave `judges/0`, `judges/1`, … and `judges/pilot`."""
    with workspace.job(config, workdir, "judges") as job:
        if job.finished is not None:
            return
        names = list(range(len(config.judges.widths))) + ["pilot"]
        job.finish({"judges": {str(name): train(config, workdir, job, name) for name in names}})


def train(config, workdir, job, name):
    """One judge, from scratch to `judges/<name>/model`: its figures."""
    data, tok, mesh = workspace.require(config, workdir, "data"), workspace.tokenizer(config, workdir), settings.mesh(config)
    cfg, c, opt_cfg = settings.judge(config, name, tok.vocab_size), config.judges, settings.optimiser(config.judges)
    # Seeds of their own: none of them shares its start or its data order with another, or with the teacher.
    seed = config.seed + 1000 + (len(c.widths) if name == "pilot" else name)
    optimiser = states.make_optimiser(opt_cfg)
    state, shardings = states.create(lambda: causal.init(jax.random.key(seed), cfg), optimiser, mesh, ema=True)
    loss = lambda key, params, x_BL: (causal.token_nll(cfg, params, x_BL, tok.eos_id, key).mean(), {})
    heldout_NL = windows.heldout(data, config.teacher.heldout)
    nll = jax.jit(lambda params, x_BL: causal.token_nll(cfg, params, x_BL, tok.eos_id).mean())
    step = states.make_step(loss, optimiser, opt_cfg, mesh, shardings, seed)
    batches = windows.batches(data, "train", c.batch, seed, jax.process_index(), jax.process_count())
    where = job.directory / str(name)
    state, figures = workspace.train(
        config, job, c, step, state, batches, name=f"judge {name}", mesh=mesh, tok=tok, directory=where
    )
    heldout = float(np.exp(nll(state.averaged, heldout_NL)))
    job.metrics.line(f"judge {name}: {figures['parameters']:,} parameters, held-out perplexity {heldout:.1f}")
    return figures | {"heldout_perplexity": heldout}
