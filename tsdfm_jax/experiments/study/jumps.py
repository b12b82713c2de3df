"""The jump at sampling alone: students that learnt from one kind of jump sample with each kind.

Other arms change the jump of trajectories and of sampling together. The texts have the same starting states as those of the
tables, so that the row of the config's own jump agrees with the tables.
"""

import json

from tsdfm_jax.config import settings
from tsdfm_jax.evaluation import judging
from tsdfm_jax.experiments.study import arms as study_arms, targets as study_targets
from tsdfm_jax.flow import jump
from tsdfm_jax.inference import sampling
from tsdfm_jax.runtime import metrics as metrics_lib, signals
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import trained

FILE = "jumps.json"
ARMS = ("blind", "shaped")
MODEL = "student_shaped"


def measure(study, source):
    """Write `jumps.json` into the source's directory: {arm: {jump: {steps: metrics}}} of the first seed; keeps existing rows."""
    arms = {arm.name: arm for arm in study_arms.main_arms(study.config_of(source))}
    runs = {name: study.run(arms[name], source, study.seeds[0]) for name in ARMS}
    file = study.root / source / FILE
    rows = json.loads(file.read_text()) if file.exists() else {}
    todo = [(name, kind) for name, run in runs.items() if run.finished() for kind in jump.JUMPS if kind not in rows.get(name, {})]
    if not todo:
        return
    base, mesh = study.base(source), settings.mesh(study.config_of(source))
    judges = [judging.trained_judge(base.config, base.workdir, mesh, i) for i in range(len(base.config.judges.widths))]
    with signals.stopping(), metrics_lib.progress(f"jumps {source}", len(todo), "jump") as bar:
        for name, kind in todo:
            if signals.stop_agreed():
                raise KeyboardInterrupt
            rows.setdefault(name, {})[kind] = sampled_scores(runs[name], kind, judges, mesh)
            atomic.overwrite(file, atomic.json_text(atomic.finite(rows), indent=1))
            bar.advance(1)


def sampled_scores(run, kind, judges, mesh):
    """{steps: metrics} of a run's student, sampling with jump `kind`."""
    config = run.config.copy_and_resolve_references()
    config.flow.jump = kind
    c = config.evaluate
    network, tok = trained.model(run.config, run.workdir, mesh, MODEL), trained.tokenizer(config, run.workdir)
    draw = sampling.make_sampler(config, mesh, tok, MODEL, network.apply, c.batch, settings.sampler_config(config, c))
    seed = run.seed + sampling.TABLE_SEED
    texts = {steps: draw(network.params, seed, c.samples, steps)[0] for steps in study_arms.STEPS}
    return {str(steps): study_targets.text_scores(judges, x_NL, mesh) for steps, x_NL in texts.items()}
