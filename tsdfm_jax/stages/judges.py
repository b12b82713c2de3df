"""Stage `judges`: causal transformers of increasing size, trained on the training split alone, and a pilot.

The pilot is a further network that the compass's own table is read by, so that no choice is made by a judge of the report.
"""

import jax

from tsdfm_jax import judging, settings, workspace
from tsdfm_jax.data import windows
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import mesh as meshes, state as states


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
    loss = lambda key, params, x_BL: (causal.token_nll(cfg, params, x_BL, tok.eos_id, key).mean(), {})
    heldout_NL = windows.heldout(data, config.teacher.heldout)
    learner = states.learner(lambda: causal.init(jax.random.key(seed), cfg), loss, opt_cfg, mesh, seed)
    batches = windows.batches(data, "train", c.batch, seed, meshes.share(mesh))
    where = job.directory / str(name)
    state, figures = workspace.train(config, job, c, learner, batches, name=f"judge {name}", mesh=mesh, tok=tok, directory=where)
    heldout = judging.perplexity(judging.own("", cfg, state.averaged, tok), heldout_NL, c.batch, mesh)["ppl_token"]
    job.metrics.line(f"judge {name}: {figures['parameters']:,} parameters, held-out perplexity {heldout:.1f}")
    return figures | {"heldout_perplexity": heldout}
