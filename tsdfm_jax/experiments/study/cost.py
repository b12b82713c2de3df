"""The cost of shaping: sampling time at 4, 8 and 1,024 steps, and the training of each arm, in FLOPs and seconds."""

import statistics

from tsdfm_jax.config import networks, settings
from tsdfm_jax.experiments.planning import budget_parts
from tsdfm_jax.experiments.study import arms as study_arms
from tsdfm_jax.inference import sampling
from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.storage import atomic
from tsdfm_jax.workspace import trained, tsdfm_artefacts

FILE = "cost.json"
ROUNDS = 3
TEXTS = 8
STEPS = (4, 8, 1024)


def measure(study, source):
    """Write `cost.json` into the source's directory; needs the first seed of the arms `blind` and `shaped`."""
    arms = {arm.name: arm for arm in study_arms.main_arms(study.config_of(source))}
    runs = {name: study.run(arms[name], source, study.seeds[0]) for name in ("blind", "shaped")}
    file = study.root / source / FILE
    if file.exists() or not all(run.finished() for run in runs.values()):
        return
    costs = {
        "sampling": sampling_seconds(runs["shaped"]),
        "training": training_flops(study, runs),
        "seconds": seconds(study, source, runs),
    }
    atomic.overwrite(file, atomic.json_text(costs, indent=1))


def sampling_seconds(run):
    """{model: {steps: seconds of one batch}}, medians over ROUNDS rounds, each of which runs all STEPS."""
    config, mesh = run.config, settings.mesh(run.config)
    tok = trained.tokenizer(config, run.workdir)
    cfg = settings.sampler_config(config, config.evaluate)
    by_model = {}
    for name in networks.models(config):
        network = trained.model(config, run.workdir, mesh, name)
        draw = sampling.make_sampler(config, mesh, tok, name, network.apply, TEXTS, cfg)
        draw(network.params, 0, TEXTS, 2)  # compiles
        for _ in range(ROUNDS):
            for steps in STEPS:
                seconds = draw(network.params, 0, TEXTS, steps)[1]
                by_model.setdefault(name, {}).setdefault(steps, []).append(seconds)
    return {name: {steps: statistics.median(seconds) for steps, seconds in by_steps.items()} for name, by_steps in by_model.items()}


def training_flops(study, runs):
    """Model FLOPs of each student's trajectories and updates, and of the teacher's training."""
    text_vocab = study.config.tokenizer.vocab_size
    parts = {
        name: sum(part.runs * part.flops for part in budget_parts.trajectories(run.config, text_vocab))
        for name, run in runs.items()
    }
    updates = {
        name: sum(part.runs * part.flops for part in budget_parts.student(run.config, text_vocab)) for name, run in runs.items()
    }
    teacher = sum(part.runs * part.flops for part in budget_parts.teacher(study.config, text_vocab)[:1])
    return {"teacher": teacher} | {name: {"trajectories": parts[name], "updates": updates[name]} for name in runs}


def seconds(study, source, runs):
    """Seconds of the same stages, from their runs' records, without compilation."""
    stage_seconds = lambda directory: (figures := bookkeeping.done(directory)["figures"])["seconds"] - figures["compile_seconds"]
    teacher = study.base(source).workdir / "teacher"
    # A teacher loaded by teacher.path was not trained here and has no seconds.
    by_arm = {"teacher": stage_seconds(teacher)} if "seconds" in bookkeeping.done(teacher)["figures"] else {}
    for name, run in runs.items():
        stages = {"trajectories": "trajectories/round_0", "updates": tsdfm_artefacts.student_directory("shaped", 0)}
        by_arm[name] = {stage: stage_seconds(run.workdir / directory) for stage, directory in stages.items()}
    return by_arm
