"""A running stage in a work directory: the config keys behind its result, its bookkeeping, and the training of one network."""

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
    # Keys that add sets of texts or judges are not here: the stage keeps its results and adds to them.
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
    """A running stage.

    Attributes:
      directory: the directory that it writes to.
      metrics: its log and curves.
      fingerprint: the config keys that its result depends on, see `fingerprint`.
      finished: its numbers if it was already finished, else None.
    """

    directory: pathlib.Path
    metrics: metrics_lib.Metrics
    fingerprint: dict
    finished: dict | None
    _start_time: float = 0.0
    _start_compiled: metrics_lib.Compiled = metrics_lib.Compiled()

    def finish(self, figures):
        """Mark the stage as finished, with its numbers; seconds and compilations sum over all its runs, without the pauses."""
        totals = self._add_up_time()
        figures = {**figures, **totals, "peak_memory_bytes": metrics_lib.peak_memory_bytes()}
        hosts.first(lambda: bookkeeping.finish(self.directory, self.fingerprint, figures))
        compiled = metrics_lib.Compiled(totals["compile_seconds"], totals["compilations"], totals["from_cache"])
        self.metrics.line(f"done in {totals['seconds']:.0f} s, of which {compiled}")

    def _add_up_time(self):
        """Sum seconds and compilations of this run and earlier ones, write the sum to disk, return it; only process 0 writes."""
        file = self.directory / bookkeeping.SECONDS
        earlier = json.loads(file.read_text()) if file.exists() else {}
        earlier = earlier if isinstance(earlier, dict) else {"seconds": earlier}  # the format of an older version
        now, compiled = time.perf_counter(), metrics_lib.compiled()
        totals = {"seconds": now - self._start_time}
        totals |= dict(zip(("compile_seconds", "compilations", "from_cache"), compiled - self._start_compiled))
        totals = {name: value + earlier.get(name, 0) for name, value in totals.items()}
        if hosts.is_first():
            self._start_time, self._start_compiled = now, compiled
            atomic.overwrite(file, json.dumps(totals))
        return totals


@contextlib.contextmanager
def job(config, workdir, name, directory=None):
    """Begin a stage or go on with it; where `job.finished` is not None there is nothing left to do."""
    directory = pathlib.Path(workdir) / (directory or name)
    config_fingerprint = fingerprint(config, name)
    with metrics_lib.Metrics(workdir, name) as metrics:
        finished = hosts.first(lambda: bookkeeping.begin(directory, config_fingerprint))
        metrics_lib.reset_peak_memory()
        start = dict(_start_time=time.perf_counter(), _start_compiled=metrics_lib.compiled())
        task = Job(directory=directory, metrics=metrics, fingerprint=config_fingerprint, finished=finished, **start)
        try:
            yield task
        finally:
            if finished is None and bookkeeping.done(directory) is None:
                with contextlib.suppress(OSError):  # a full disk has its own message
                    task._add_up_time()


def require(config, workdir, name, directory=None):
    """The directory of an earlier stage; raises ValueError unless it is finished and was made with this config."""
    directory = pathlib.Path(workdir) / (directory or name)
    bookkeeping.require(directory, name)
    bookkeeping.check(directory, fingerprint(config, name))
    return directory


def train(config, job, section, learner, batches, *, name, mesh, tok, directory=None, evaluate=None):
    """Train one network, and write its moving average to `model` below the job's directory (or `directory`).

    `section` is the config section with its batch and optimiser, `learner` a `state.Learner`. Returns (state, numbers).
    """
    directory = directory or job.directory
    checkpoints = checkpoint.Checkpoints(directory / "checkpoints")
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
        curve=directory.relative_to(job.metrics.workdir).as_posix(),
    )
    checkpoints.close()
    meta = checkpoint.save_params(directory / "model", state.averaged, {"tokenizer": tok.content_hash})
    return state, figures | {"parameters": transformer.parameters(state.params), "hash": meta["hash"]}


def student_directory(variant, round_number):
    """The directory of a student of a round, below the work directory."""
    return f"student/{variant}/round_{round_number}"
