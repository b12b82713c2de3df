"""A stage at work in a run's work directory: what its result depends on, its bookkeeping, and the training of one network."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import time

from tsdfm_jax.lineage import bookkeeping
from tsdfm_jax.models import transformer
from tsdfm_jax.runtime import checkpoint, hosts, loop, metrics as metrics_lib
from tsdfm_jax.storage import atomic

# The config keys that each stage's result depends on, beside those of the stages before it.
KEYS = {
    "tokenizer": ("seed", "data.package", "data.files", "data.field", "data.limit_bytes", "tokenizer"),
    "data": ("data.length", "data.holdout", "data.windows_per_shard"),
    "judges": ("judges", "model.dtype", "teacher.heldout", "seed"),
    "teacher": ("flow.source", "flow.exponent", "model", "teacher"),
    "autoregressive": ("autoregressive", "model", "flow.source", "teacher.heldout", "seed"),
    "compass": ("compass", "shaping", "flow", "trajectories.chain"),
    "trajectories": ("shaping", "trajectories", "flow", "student.target", "student.progressive"),
    "student": ("student",),
    # Sets of texts and judges only add to what is there already.
    "evaluate": ("evaluate.samples", "evaluate.temperature", "evaluate.top_p", "flow", "rounds"),
}


def fingerprint(config, name):
    """The values of the keys that a stage's result depends on, as plain JSON."""
    values = {}
    for key in KEYS[name]:
        value = functools.reduce(lambda node, part: node[part], key.split("."), config)
        values[key] = value.to_dict() if hasattr(value, "to_dict") else value
    return json.loads(json.dumps(values))


@dataclasses.dataclass(kw_only=True)
class Job:
    """One stage at work.

    Attributes:
      directory: where it writes.
      metrics: its log and curves.
      finished: the figures it left if it has been done already, else None.
    """

    directory: pathlib.Path
    metrics: metrics_lib.Metrics
    fingerprint: dict
    finished: dict | None
    _begun: float = 0.0
    _compiled: metrics_lib.Compiled = metrics_lib.Compiled()

    def finish(self, figures):
        """Declare the stage done, with its figures; its seconds and compilations count every part of it, interruptions left out."""
        spent = self._account()
        figures = {**figures, **spent, "peak_memory_bytes": metrics_lib.peak_memory_bytes()}
        hosts.first(lambda: bookkeeping.finish(self.directory, self.fingerprint, figures))
        compiled = metrics_lib.Compiled(spent["compile_seconds"], spent["compilations"], spent["from_cache"])
        self.metrics.line(f"done in {spent['seconds']:.0f} s, of which {compiled}")

    def _account(self):
        """Add what was spent since the stage was taken up to that of earlier times; process 0 alone keeps the account."""
        file = self.directory / bookkeeping.SECONDS
        before = json.loads(file.read_text()) if file.exists() else {}
        before = before if isinstance(before, dict) else {"seconds": before}  # of a version that noted no more
        now, compiled = time.perf_counter(), metrics_lib.compiled()
        spent = {"seconds": now - self._begun}
        spent |= dict(zip(("compile_seconds", "compilations", "from_cache"), compiled - self._compiled))
        spent = {name: value + before.get(name, 0) for name, value in spent.items()}
        if hosts.is_first():
            self._begun, self._compiled = now, compiled
            atomic.overwrite(file, json.dumps(spent))
        return spent


@contextlib.contextmanager
def job(config, workdir, name, directory=None):
    """Begin a stage, or go on with it; `job.finished` says whether there is nothing left to do."""
    where = pathlib.Path(workdir) / (directory or name)
    mark = fingerprint(config, name)
    with metrics_lib.Metrics(workdir, name) as metrics:
        finished = hosts.first(lambda: bookkeeping.begin(where, mark))
        metrics_lib.reset_peak_memory()
        begun = dict(_begun=time.perf_counter(), _compiled=metrics_lib.compiled())
        task = Job(directory=where, metrics=metrics, fingerprint=mark, finished=finished, **begun)
        try:
            yield task
        finally:
            if finished is None and bookkeeping.done(where) is None:
                with contextlib.suppress(OSError):  # a full disk has its own message
                    task._account()


def require(config, workdir, name, directory=None):
    """The directory of an earlier stage, known to be finished and of this config."""
    where = pathlib.Path(workdir) / (directory or name)
    bookkeeping.require(where, name)
    bookkeeping.check(where, fingerprint(config, name))
    return where


def train(config, job, section, learner, batches, *, name, mesh, tok, directory=None, evaluate=None):
    """Fit one network, and leave its moving average in `model` below the job's directory (or `directory`).

    `section` is the config section with its batch and optimiser, `learner` a `state.Learner`. Returns (state, figures).
    """
    where = directory or job.directory
    checkpoints = checkpoint.Checkpoints(where / "checkpoints")
    state, figures = loop.fit(
        learner,
        batches,
        name=name,
        steps=section.optimiser.steps,
        checkpoints=checkpoints,
        metrics=job.metrics,
        mesh=mesh,
        log_every=config.log_every,
        save_every=config.save_every,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        tokens_per_step=section.batch * config.data.length,
    )
    checkpoints.close()
    meta = checkpoint.save_params(where / "model", state.averaged, {"tokenizer": tok.content_hash})
    return state, figures | {"parameters": transformer.parameters(state.params), "hash": meta["hash"]}


def student_directory(variant, round_number):
    """Where a student of a round lives, below the work directory."""
    return f"student/{variant}/round_{round_number}"
